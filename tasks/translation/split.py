"""How is a corpus cut so that a test sentence never repeats the pattern of a training sentence?

Program messages come in families ("cannot open file %s", 'cannot open file "a.txt"').  A family, here called
a template, goes to one side as a whole, decided by a hash that is the same in every process and on every
machine.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable

from tasks.errors import TaskError
from tasks.translation.clean import NAMED, PRINTF
from tasks.translation.pairs import Pair

_MASKED = [
    NAMED,
    re.compile(r"""(["'`´‘’“”«»‹›„]{1,2})[^"'`´‘’“”«»‹›„]{1,80}["'`´‘’“”«»‹›„]{1,2}"""),  # quoted names
    re.compile(r"https?://\S+|\S+@\S+\.\w+"),
    PRINTF,
    re.compile(r"(?<![\w-])--?[\w][\w-]*(?:=\S+)?"),  # options
    re.compile(r"\$\w+|\$\{\w+\}"),
    re.compile(r"(?:~|\.{1,2})?(?:/[\w.*+-]+)+/?|\b[A-Za-z]:\\\S+"),  # paths
    re.compile(r"\b[\w-]+\.[a-z]{1,4}\b(?!\.)|\b\w+_\w+\b|\w+\(\)"),  # file names, identifiers, calls
    re.compile(r"\b[A-Z][A-Z0-9]{2,}\b"),  # FILE, NUM, SELECT
    re.compile(r"\d+"),
]
_WORD = re.compile(r"[^\W\d_]+")


def template(source: str) -> str:
    """The pattern of a sentence: its words without numbers, names in quotes, placeholders, options and paths.

    Args:
        source: a sentence.

    Returns:
        Lower-case words joined by single spaces; the sentence itself where no word is left.

    Examples:
        >>> template('cannot open "%s": 3 errors') == template("Cannot open 'a.txt': 17 errors.")
        True
    """
    text = source
    for pattern in _MASKED:
        text = pattern.sub(" ", text)
    return " ".join(_WORD.findall(text.lower())) or source


def cut(
    pairs: Iterable[Pair],
    sizes: tuple[int, int],
    key: Callable[[str], str] = template,
) -> tuple[list[Pair], list[Pair], list[Pair]]:
    """Cut off validation and test by the hash order of templates.

    Held-out parts get one pair per template, so no family of messages dominates a score; its other members
    are in no part at all.

    Args:
        pairs: the corpus.
        sizes: number of validation and of test pairs; 0 cuts nothing.
        key: what must not be shared between the parts.

    Returns:
        Train, validation and test pairs.

    Raises:
        TaskError: fewer templates than needed.
    """
    groups: dict[str, list[Pair]] = {}
    for pair in pairs:
        groups.setdefault(key(pair.source), []).append(pair)
    n_validation, n_test = sizes
    if len(groups) <= n_validation + n_test:
        raise TaskError(
            f"only {len(groups)} distinct sentence patterns: too few to cut off {n_validation} validation "
            f"and {n_test} test sentences; give more text, or separate files as data.validation and data.test"
        )
    order = sorted(groups, key=position)
    test, validation, rest = (
        order[:n_test],
        order[n_test : n_test + n_validation],
        order[n_test + n_validation :],
    )
    chosen = set(rest)
    train = [pair for name, group in groups.items() if name in chosen for pair in group]
    return train, [groups[name][0] for name in validation], [groups[name][0] for name in test]


def position(name: str) -> int:
    """Place of a template in hash order; blake2b, because Python's own hash changes with every process."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")


def share(total: int, fraction: float, limit: int) -> int:
    """How many pairs to cut off: a fraction, at least one, at most the limit; none for a fraction of zero."""
    return min(limit, max(1, round(total * fraction))) if fraction > 0 else 0
