"""Which translated messages does this machine already hold?  Reads all binary gettext catalogs (*.mo).

A .mo file is two tables of (length, offset) into one blob, original texts and translations.  The parser is
our own because the standard library's stops at the first undecodable message and cannot tell contexts from
plurals apart.
"""

from __future__ import annotations

import glob
import os
import re
import site
import struct
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from tasks.errors import TaskError, nearest
from tasks.translation.pairs import Pair, Report

# Languages, countries, regions, currencies and scripts of ISO standards: lists of proper names. They make up a third of
# the pairs of a Debian machine, and learning them by heart is not translating.
_NAME_LIST = re.compile(r"iso_\d+([-_]\d+)?\.mo")

_MAGIC = {b"\xde\x12\x04\x95": "<", b"\x95\x04\x12\xde": ">"}


class Message(NamedTuple):
    """One entry of a catalog; `kind` says whether it is usable as a plain pair."""

    original: str
    translation: str
    kind: str  # "plain" | "header" | "with context" | "plural" | "undecodable"


def harvest(language: str, source_language: str = "en", folders: Iterable[str] = ()) -> tuple[list[Pair], Report]:
    """Every plain message of all catalogs but ISO name lists, as a raw pair (cleaning comes later).

    Two languages other than English meet through the English message of the same catalog.

    Args:
        language: target, for example `de` or `pt_BR`.
        source_language: `en` (the language of the messages themselves) or another one.
        folders: locale folders; empty means those of this machine.

    Returns:
        Pairs in a stable order, and a report with what was left out.

    Raises:
        TaskError: no catalog in that language; the languages that exist are listed with their number of
            catalogs.
    """
    roots = list(folders) or locale_folders()
    report = Report(origin=f"message catalogs {source_language}-{language}")
    if language == source_language:
        raise TaskError(f"source and target language are both {language!r}")
    targets = _messages(language, roots, report)
    if source_language == "en":
        return [Pair(message, text) for (_, message), text in targets.items()], report
    sources = _messages(source_language, roots, report)
    both = [key for key in targets if key in sources]
    report.dropped["without counterpart"] += len(targets) - len(both)
    return [Pair(sources[key], targets[key]) for key in both], report


def languages(folders: Iterable[str] = ()) -> Counter[str]:
    """How many catalogs each language has."""
    roots = list(folders) or locale_folders()
    found: Counter[str] = Counter()
    for root in roots:
        found.update(Path(path).parts[-3] for path in glob.glob(f"{glob.escape(root)}/*/LC_MESSAGES/*.mo"))
    return found


def locale_folders() -> list[str]:
    """Folders of this machine with `<language>/LC_MESSAGES/*.mo`: system, Python, its packages, Vim."""
    shares = [*os.environ.get("XDG_DATA_DIRS", "").split(":"), "/usr/share", "/usr/local/share"]
    shares += [os.path.join(prefix, "share") for prefix in (sys.prefix, sys.base_prefix)]
    found = [os.path.join(share, name) for share in shares if share for name in ("locale", "locale-langpack")]
    found += sorted(glob.glob("/usr/share/vim/vim*/lang"))
    for packages in site.getsitepackages():
        for depth in range(1, 4):
            found += sorted(glob.glob(os.path.join(packages, *["*"] * depth, "locale")))
    return [path for path in dict.fromkeys(os.path.realpath(path) for path in found) if os.path.isdir(path)]


def parse_mo(data: bytes) -> Iterator[Message]:
    """The entries of one binary catalog.

    Args:
        data: the whole file.

    Yields:
        Messages; an entry that its own charset cannot decode is yielded with kind "undecodable".

    Raises:
        TaskError: not a catalog, or truncated.
    """
    order = _MAGIC.get(data[:4])
    if order is None or len(data) < 20:
        raise TaskError("not a gettext catalog")
    count, originals, translations = struct.unpack_from(order + "3I", data, 8)
    raw = [(_entry(data, order, originals + 8 * i), _entry(data, order, translations + 8 * i)) for i in range(count)]
    charset = _charset(dict(raw).get(b"", b""))
    for original, translation in raw:
        yield _message(original, translation, charset)


def _entry(data: bytes, order: str, at: int) -> bytes:
    if at + 8 > len(data):
        raise TaskError("truncated catalog")
    length, offset = struct.unpack_from(order + "2I", data, at)
    if offset + length > len(data):
        raise TaskError("truncated catalog")
    return data[offset : offset + length]


def _charset(header: bytes) -> str:
    match = re.search(rb"charset=([\w.:-]+)", header)
    name = match.group(1).decode("ascii") if match else "utf-8"
    try:
        "".encode(name)
    except LookupError:
        return "utf-8"
    return name


def _message(original: bytes, translation: bytes, charset: str) -> Message:
    if not original:
        return Message("", "", "header")
    try:
        source, target = original.decode(charset), translation.decode(charset)
    except UnicodeDecodeError:
        return Message("", "", "undecodable")
    # U+0004 separates a context from the message, U+0000 the plural forms.
    kind = "with context" if "\x04" in source else "plural" if "\x00" in source else "plain"
    return Message(source, target, kind)


def _messages(language: str, roots: list[str], report: Report) -> dict[tuple[str, str], str]:
    """(catalog, English message) -> translation."""
    found: dict[tuple[str, str], str] = {}
    for path in _catalogs(language, roots):
        try:
            messages = list(parse_mo(path.read_bytes()))
        except (TaskError, OSError) as error:
            report.notes.append(f"{path}: skipped, {error}")
            report.dropped["in unreadable catalogs (files)"] += 1
            continue
        report.read += len(messages)
        if _NAME_LIST.fullmatch(path.name):
            report.dropped["in ISO name lists"] += len(messages)
            continue
        for original, translation, kind in messages:
            if kind == "plain":
                found.setdefault((path.name, original), translation)
            else:
                report.dropped[kind] += 1
    return found


def _catalogs(language: str, roots: list[str]) -> list[Path]:
    """Files of a language; regional variants (`de_AT`) fill in only for programs without a file for `de`."""
    chosen: dict[tuple[str, str], Path] = {}
    for variant in _variants(language, roots):
        for root in roots:
            for path in sorted(Path(root).glob(f"{glob.escape(variant)}/LC_MESSAGES/*.mo")):
                chosen.setdefault((root, path.name), path)
    # Sorted by program, so that the order (and with it the choice among duplicates) is the same on every run.
    return sorted(chosen.values(), key=lambda path: (path.name, str(path)))


def _variants(language: str, roots: list[str]) -> list[str]:
    """`de` -> de, de_AT, de_CH; without plain `zh` only its largest variant, so scripts do not mix."""
    known = languages(roots)
    regional = sorted(name for name in known if name.startswith(language + "_") and "@" not in name)
    if language in known:
        return [language, *regional]
    if regional:
        return [max(regional, key=lambda name: known[name])]
    listing = ", ".join(f"{name} ({count})" for name, count in known.most_common(40)) or "none at all"
    close = nearest(language, known) if known else ""
    close = close if "did you mean" in close else ""
    raise TaskError(
        f"no message catalogs for language {language!r} on this machine{close}\n"
        f"languages found (catalogs): {listing}\n"
        f"without catalogs, data.source = 'cldr:{language}' works on any machine"
    )
