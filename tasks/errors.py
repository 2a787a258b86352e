"""Which errors are the user's to fix?  These; the command line prints them without a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TaskError(ValueError):
    """Something in a config, a data file or a folder that the user can put right."""


class Interrupted(Exception):  # noqa: N818 - an event, no error
    """Training was stopped by Ctrl-C after a resumable checkpoint had been written."""


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint that proposes the known words closest to a mistyped one.

    Args:
        word: what the user wrote.
        known: every accepted spelling.

    Returns:
        "; did you mean a, b?" or, where nothing is close, "; known: ..." with all of them.

    Examples:
        >>> nearest("learning_rat", ["learning_rate", "seed"])
        "; did you mean 'learning_rate'?"
    """
    choices = sorted(set(known))
    close = difflib.get_close_matches(word, choices, n=3, cutoff=0.6)
    if close:
        return "; did you mean " + " or ".join(repr(name) for name in close) + "?"
    return f"; known: {', '.join(choices) or 'none'}"
