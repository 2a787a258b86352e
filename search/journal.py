"""How does a journal survive a full disk and a killed writer? Lines are appended to whole lines only."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

from .outages import room_for


class WholeLines(JournalFileBackend):
    """Optuna's journal in a file, without halves of lines.

    Whoever is interrupted, or finds no room, may leave half a line at the end. Readers pass over it, but Optuna writes
    the next line right behind it; both are unreadable then, and so is the study. Here the next writer removes it.

    Args:
        path: Of the file; it is made if it does not exist.

    Raises:
        RecordError: The disk is full.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._turn = path, JournalFileSymlinkLock(str(path))
        with room_for(path):
            super().__init__(str(path), self._turn)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Write lines behind the last whole one.

        Raises:
            RecordError: The disk is full.
        """
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()
        with room_for(self._path):
            self._turn.acquire()
            try:
                with self._path.open("a+b", buffering=0) as file:
                    _append(file, lines)
            finally:
                self._turn.release()


def _append(file: io.FileIO, lines: bytes) -> None:
    file.truncate(_end_of_lines(file))
    left = memoryview(lines)
    while left:
        left = left[file.write(left) :]
    os.fsync(file.fileno())


def _end_of_lines(file: io.FileIO) -> int:
    """Where the last whole line ends."""
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        return 0
    file.seek(size - 1)
    if file.read(1) == b"\n":
        return size
    file.seek(0)
    return file.read(size).rfind(b"\n") + 1
