"""What did tuning find out? One file per target: the decisions that ran fastest, per kernel, shape and rule.

A user's own findings lie in a folder of theirs and come before those that are shipped with the package.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock

from .targets import Target

SHIPPED = Path(__file__).parent / "records"

Row = dict[str, Any]
"""``kernel``, ``shape``, ``rule``, ``decisions`` and the ``us`` that they took."""


def user_folder() -> Path:
    """``$XDG_DATA_HOME/shiftadd/records``, by default below ``~/.local/share``."""
    root = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(root) / "shiftadd" / "records"


def recorded(target: Target, kernel: str, shape: Any) -> Mapping[str, dict[str, int]]:
    """Decisions that were found fastest, by rule; empty where nothing was tuned."""
    return _decisions(target.name, user_folder()).get(_key(kernel, shape), {})


def read(path: Path) -> list[Row]:
    """The rows of a file; none if it does not exist.

    Raises:
        ValueError: the file is no record file.
    """
    if not path.exists():
        return []
    try:
        rows: list[Row] = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(rows, list):
            raise TypeError("no list of rows")
        for row in rows:
            if not isinstance(row["decisions"], dict):
                raise TypeError("decisions are no table")
            _identity(row)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} holds no tuning records ({error!r}); repair it, or delete it and tune again"
        ) from error
    return rows


def write(path: Path, row: Row) -> None:
    """Put one row into a file, in the place of an older one for the same kernel, shape and rule.

    Others may tune at the same time: the file is locked while it changes, and a reader sees all of it or nothing.

    Raises:
        OSError: the file cannot be written.
        ValueError: what is there is no record file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        FileLock(path.with_suffix(".lock")),
        tempfile.TemporaryDirectory(dir=path.parent, prefix=".writing-") as scratch,
    ):
        rows = [old for old in read(path) if not _same(old, row)] + [row]
        fresh = Path(scratch) / path.name
        fresh.write_text(_text(sorted(rows, key=_identity)), encoding="utf-8")
        os.replace(fresh, path)
    _decisions.cache_clear()


def concerns(row: Row, kernel: str, shape: Any) -> bool:
    """Whether a row is about a kernel of this shape."""
    return _key(row["kernel"], row["shape"]) == _key(kernel, shape)


@cache
def _decisions(target: str, users: Path) -> dict[str, dict[str, dict[str, int]]]:
    found: dict[str, dict[str, dict[str, int]]] = {}
    for folder in (SHIPPED, users):
        for row in read(folder / f"{target}.json"):
            found.setdefault(_key(row["kernel"], row["shape"]), {})[row["rule"]] = row["decisions"]
    return found


def _same(one: Row, other: Row) -> bool:
    return _identity(one) == _identity(other)


def _identity(row: Row) -> tuple[str, str]:
    return _key(row["kernel"], row["shape"]), row["rule"]


def _key(kernel: str, shape: Any) -> str:
    fields = shape if isinstance(shape, dict) else asdict(shape)
    return json.dumps([kernel, fields], sort_keys=True)


def _text(rows: Iterable[Row]) -> str:
    """One row per line, so that a change of one shows as one."""
    return "[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n"
