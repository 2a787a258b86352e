"""What keeps a search from being recorded? Full disks and lost servers, as errors that say what to do."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy.engine import URL

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""The operating system's names for "no room": of the disk, of the user's share, of the file."""
POSTGRES_FULL = "53100"
SQLITE_FULL = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
"""SQLite calls a disk full where writing says so, and has an I/O error where a quota or shared memory does."""


class RecordError(OSError):
    """A search's record cannot grow, or cannot be reached. What it holds is safe, and the same call goes on from it."""


@contextmanager
def room_for(path: Path) -> Iterator[None]:
    """Write to a file; what fails for want of room is explained.

    Raises:
        RecordError: Its disk is full.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, RecordError) or error.errno not in FULL:
            raise
        raise _no_room(str(path), error) from error


def outage(error: BaseException, url: URL, lost: bool) -> RecordError | None:
    """Explain a database driver's error; None if it is of another kind.

    Args:
        error: The driver's own.
        url: Of the database; its password is not shown.
        lost: Whether there is no connection, or none any more.
    """
    code = getattr(error, "sqlite_errorcode", None)
    full = code is not None and code & 0xFF in SQLITE_FULL
    if full or getattr(error, "sqlstate", None) == POSTGRES_FULL:
        return _no_room(shown(url), error)
    if not lost:
        return None
    return RecordError(
        f"the database {shown(url)} cannot be reached ({_first_line(error)}). See that it runs and lets this user in: "
        "nothing that was recorded is lost, and the same call then goes on where it stopped"
    )


def shown(url: URL) -> str:
    """A URL without its secrets.

    >>> from sqlalchemy.engine import make_url
    >>> shown(make_url("postgresql+psycopg://ann:secret@db.example/studies?sslpassword=hidden"))
    'postgresql+psycopg://ann:***@db.example/studies?sslpassword=***'
    """
    secrets = {key: "***" for key in url.query if "pass" in key}
    return url.update_query_dict(secrets).render_as_string(hide_password=True).replace("%2A", "*")


def _no_room(where: str, error: BaseException) -> RecordError:
    return RecordError(
        f"no room to record the search in {where} ({_first_line(error)}). Make room on its disk: nothing that was "
        "recorded is lost, and the same call then goes on where it stopped"
    )


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
