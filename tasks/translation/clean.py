"""Which raw pairs are worth learning from?  Normalises, splits multi-line messages, drops the rest."""

from __future__ import annotations

import html
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator
from functools import lru_cache

from tasks.translation.pairs import Pair, Report

PRINTF = re.compile(r"%(?:\d+\$)?[-+ #0']*(?:\*|\d+)?(?:\.(?:\*|\d+))?(?:hh|h|ll|l|L|q|j|z|Z|t)?[diouxXeEfFgGaAcsSpnm]")
NAMED = re.compile(r"%\(\w+\)[#0-9.+-]*[a-zA-Z]|\$?\{[\w.!:]*\}|%\{\w+\}|<[\w/][^<>]{0,60}>|&\w+;")
_WORD = re.compile(r"[^\W\d_]+")
_SPACE = re.compile(r"[\s\u200b\ufeff]+")
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\xad\u200c-\u200f\u202a-\u202e\u2060-\u206f\ufff0-\uffff]")
_MNEMONIC_TAIL = re.compile(r"\s*\([_&][A-Za-z0-9]\)")  # Japanese style: "開く(_O)"
_SCRIPTS = {
    "CYRILLIC": "be bg kk ky mk mn ru sr tg tt uk",
    "GREEK": "el",
    "HEBREW": "he yi",
    "ARABIC": "ar fa ur ug ps ckb",
    "DEVANAGARI": "hi mr ne",
    "BENGALI": "as bn",
    "CJK HIRAGANA KATAKANA": "ja zh",
    "HANGUL": "ko",
    "THAI": "th",
    "GEORGIAN": "ka",
    "ARMENIAN": "hy",
    "TAMIL": "ta",
    "TELUGU": "te",
    "KANNADA": "kn",
    "MALAYALAM": "ml",
    "GUJARATI": "gu",
    "GURMUKHI": "pa",
    "ORIYA": "or",
    "SINHALA": "si",
    "KHMER": "km",
    "LAO": "lo",
    "MYANMAR": "my",
    "ETHIOPIC": "am ti",
}


def clean_pairs(
    pairs: Collection[Pair],
    report: Report,
    *,
    strict: bool,
    languages: tuple[str, str] = ("en", "de"),
    max_chars: int = 300,
    max_ratio: float = 3.0,
) -> list[Pair]:
    """Normalise, filter and deduplicate.

    Args:
        pairs: raw pairs.
        report: counts what is dropped, by reason; changed in place.
        strict: also drop what only program messages suffer from (untranslated, markup, other script,
            unbalanced).
        languages: codes of source and target, for the script test.
        max_chars: longest source or target after normalisation.
        max_ratio: largest ratio of the two lengths, with an allowance for short texts.

    Returns:
        Kept pairs in their first order, one per source.
    """
    kept: dict[str, str] = {}
    distinct = dict.fromkeys(pairs)
    report.dropped["duplicate"] += len(pairs) - len(distinct)
    for raw in distinct:
        for pair in _prepared(raw, strict):
            reason = _fault(pair, strict, languages, max_chars, max_ratio)
            if reason is None and pair.source in kept:
                reason = "duplicate"
            if reason is None:
                kept[pair.source] = pair.target
            else:
                report.dropped[reason] += 1
    report.kept = len(kept)
    return [Pair(source, target) for source, target in kept.items()]


def normalise(text: str) -> str:
    """Canonical composition, no control characters, single spaces."""
    return _SPACE.sub(" ", _CONTROL.sub("", unicodedata.normalize("NFC", text))).strip()


def split_lines(pair: Pair) -> Iterator[Pair]:
    r"""Cut a multi-line message into line pairs where the lines correspond; otherwise join it into one line.

    Lines correspond when both sides have equally many and none is the middle of a wrapped sentence.

    Examples:
        >>> list(split_lines(Pair("Yes\nNo", "Ja\nNein")))
        [Pair(source='Yes', target='Ja'), Pair(source='No', target='Nein')]
    """
    sources, targets = _lines(pair.source), _lines(pair.target)
    if len(sources) != len(targets) or any(_continues(line) for line in (*sources[1:], *targets[1:])):
        yield pair
    else:
        yield from map(Pair, sources, targets)


def strip_mnemonic(text: str) -> str:
    """Remove the keyboard mark of a menu label: "_File", "Save &As", "E_xit", "開く(_O)".

    Only a single mark directly before a letter in a short label counts; identifiers and entities stay.

    Examples:
        >>> [strip_mnemonic(text) for text in ("Save _As", "the max_length option", "R&D &amp; Co")]
        ['Save As', 'the max_length option', 'R&D &amp; Co']
    """
    if "_" not in text and "&" not in text:
        return text
    text = _MNEMONIC_TAIL.sub("", text)
    for mark in "_&":
        match = re.search(rf"(?<![{mark}%$-]){mark}(?=[^\W\d_])", text)
        if text.count(mark) != 1 or match is None or len(text.split()) > 5 or re.search(r"&#?\w+;", text):
            continue
        inside = match.start() > 0 and text[match.start() - 1].isalnum()
        if not inside or (mark == "_" and text[0].isupper() and text[: match.start()].isalpha() and len(text) < 20):
            return text[: match.start()] + text[match.start() + 1 :]
    return text


def placeholders(text: str) -> Counter[str]:
    """Format directives, without argument numbers and flags, as a multiset."""
    if "%" not in text and "{" not in text:
        return Counter()
    found = Counter(re.sub(r"^%\d+\$", "%", match) for match in PRINTF.findall(text.replace("%%", "")))
    found.update(match for match in NAMED.findall(text) if match[0] in "%{$")
    return found


def _prepared(raw: Pair, strict: bool) -> Iterator[Pair]:
    for pair in split_lines(raw) if strict else (raw,):
        source, target = normalise(pair.source), normalise(pair.target)
        if strict:
            source, target = strip_mnemonic(source), strip_mnemonic(target)
        yield Pair(source, target)


def _fault(pair: Pair, strict: bool, languages: tuple[str, str], max_chars: int, max_ratio: float) -> str | None:
    """Why a pair is dropped, or None."""
    source, target = pair
    if not source or not target:
        return "empty side"
    if max(len(source), len(target)) > max_chars:
        return "too long"
    if not strict:
        return None
    words = _words(source), _words(target)
    if sum(map(len, words[0])) < 2 or not words[1]:
        return "markup or symbols only"
    if source == target or _same(*words):
        return "untranslated"
    if placeholders(source) != placeholders(target):
        return "placeholders differ"
    if not all(map(_right_script, words, languages)):
        return "wrong script"
    shorter, longer = sorted((len(source) + 10, len(target) + 10))  # 10: "on" -> "eingeschaltet" is no error
    return "length ratio" if longer > max_ratio * shorter else None


def _words(text: str) -> list[str]:
    """Words outside placeholders and markup."""
    if "%" in text:
        text = PRINTF.sub(" ", text)
    if any(mark in text for mark in "%{<&"):
        text = NAMED.sub(" ", html.unescape(text))
    return _WORD.findall(text)


def _same(source: list[str], target: list[str]) -> bool:
    """Equal, or nearly so: four fifths of the words are the same."""
    a, b = (Counter(map(str.casefold, words)) for words in (source, target))
    return (a & b).total() >= 0.8 * max(a.total(), b.total())


def _right_script(words: list[str], language: str) -> bool:
    """Whether the letters fit the language: its script must occur, foreign ones stay a minority."""
    expected = _expected_scripts(language)
    text = "".join(words)
    if text.isascii():
        return "LATIN" in expected
    found = Counter(map(_script, text))
    good = sum(found[script] for script in expected)
    # Latin words (names, commands) are normal in any language; other foreign scripts are not.
    foreign = found.total() - good - (found["LATIN"] if "LATIN" not in expected else 0)
    return good > 0 and foreign <= 0.3 * found.total()


@lru_cache
def _expected_scripts(language: str) -> tuple[str, ...]:
    if language.endswith("@latin"):
        return ("LATIN",)
    code = re.split(r"[_@-]", language)[0]
    return next((tuple(k.split()) for k, codes in _SCRIPTS.items() if code in codes.split()), ("LATIN",))


@lru_cache(maxsize=20_000)
def _script(character: str) -> str:
    return unicodedata.name(character, "UNKNOWN").split()[0]


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]


def _continues(line: str) -> bool:
    """A line that starts with a lower-case letter at the margin goes on with the line before."""
    return line[0].islower()
