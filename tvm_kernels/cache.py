"""Where do compiled kernels stay? In files named by their content, shared by all processes of a user.

A file is written elsewhere and moved into place, so a reader sees all of it or nothing; a lock keeps two processes
from building the same kernel; a digest at the end of the file tells a damaged one, which is built anew.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

from filelock import FileLock

logger = logging.getLogger(__name__)

_DIGEST_BYTES = 32


def default_folder() -> Path:
    """``$XDG_CACHE_HOME/shiftadd/kernels``, by default below ``~/.cache``."""
    return _folder(os.environ.get("XDG_CACHE_HOME", ""))


@cache
def _folder(root: str) -> Path:
    return (Path(root) if root else Path.home() / ".cache") / "shiftadd" / "kernels"


def stored(folder: Path, key: str, make: Callable[[Path], None]) -> Path:
    """The file of a key; made if it is missing or damaged.

    Args:
        folder: where files lie; created.
        key: names the content.
        make: writes the content to a path that it is given.

    Returns:
        the intact file.

    Raises:
        OSError: the folder cannot be written to.
    """
    path = folder / f"{key}.so"
    if _intact(path):
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f"{key}.lock"):
            if not _intact(path):
                _make(path, make)
    except PermissionError as error:
        raise OSError(
            f"compiled kernels cannot be kept in {folder}: make it writable or set XDG_CACHE_HOME to another folder"
        ) from error
    return path


def _make(path: Path, make: Callable[[Path], None]) -> None:
    if path.exists():
        logger.warning("%s is damaged and is built anew", path)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".building-") as scratch:
        fresh = Path(scratch) / path.name
        make(fresh)
        with fresh.open("ab") as file:  # a loader of shared objects ignores what follows the last section
            file.write(hashlib.sha256(fresh.read_bytes()).digest())
        os.replace(fresh, path)


def _intact(path: Path) -> bool:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return False
    body, digest = content[:-_DIGEST_BYTES], content[-_DIGEST_BYTES:]
    return bool(body) and hashlib.sha256(body).digest() == digest
