"""Where is a search recorded? Memory, a database, or a file that several processes may write to."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy import event
from sqlalchemy.exc import SQLAlchemyError

ATTEMPTS = 20
"""Processes that create one database at the same time trip over each other; those that fail try again."""


@contextmanager
def opened(storage: str | Path) -> Iterator[BaseStorage]:
    """Open a storage, and close it.

    Args:
        storage: "memory"; a URL that Optuna knows; or the path of a file, which holds a journal if it ends in
            `.journal` (quick), and an SQLite database otherwise (readable with Optuna's dashboard and SQL).

    Raises:
        ValueError: It is none of these.
    """
    if isinstance(storage, Path):
        storage.parent.mkdir(parents=True, exist_ok=True)
        if storage.suffix == ".journal":
            yield JournalStorage(JournalFileBackend(str(storage)))
            return
        storage = f"sqlite:///{storage}"
    if storage == "memory":
        yield InMemoryStorage()
        return
    if "://" not in storage:
        raise ValueError(f"storage {storage!r} is neither 'memory' nor a URL; for a file, pass a pathlib.Path")
    database = _database(storage)
    try:
        yield database
    finally:
        database.remove_session()
        database.engine.dispose()


def _database(url: str) -> RDBStorage:
    lite = url.startswith("sqlite")
    for attempt in range(1, ATTEMPTS + 1):
        try:
            database = RDBStorage(url, engine_kwargs={"connect_args": {"timeout": 60}} if lite else {})
            break
        except SQLAlchemyError:
            if attempt == ATTEMPTS:
                raise
            time.sleep(0.1)
    if lite:
        event.listen(database.engine, "connect", _write_ahead)
        database.engine.dispose()  # connections made so far do not have the settings
    return database


def _write_ahead(connection: Any, record: Any) -> None:
    """A trial is a dozen small commits: wait for the disk at checkpoints, not at each of them."""
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()
