"""Where is a search recorded? Memory, a database, or a file that several processes may write to."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage, RDBStorage, get_storage
from sqlalchemy import create_engine, event
from sqlalchemy.engine import URL, Connection, ExceptionContext, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, OperationalError, SQLAlchemyError

from .journal import WholeLines
from .outages import RecordError, outage, room_for

ATTEMPTS = 20
"""Processes that create one database at the same time trip over each other; those that fail try again."""


@contextmanager
def opened(storage: str | Path) -> Iterator[BaseStorage]:
    """Open a storage, and close it.

    Args:
        storage: "memory"; a URL that Optuna knows; or the path of a file, which holds a journal if it ends in
            `.journal` (quick), and an SQLite database otherwise (readable with Optuna's dashboard and SQL).

    Raises:
        ValueError: It is none of these, or the database's driver is not installed.
        RecordError: The disk is full, or the database cannot be reached; also later, by what is done with it.
    """
    if isinstance(storage, Path):
        with room_for(storage):
            storage.parent.mkdir(parents=True, exist_ok=True)
        if storage.suffix == ".journal":
            yield JournalStorage(WholeLines(storage))
            return
        storage = f"sqlite:///{storage}"
    if storage == "memory":
        yield InMemoryStorage()
        return
    database = _database(_url(storage))
    try:
        yield get_storage(database)
    finally:
        database.remove_session()
        database.engine.dispose()


def _url(storage: str) -> URL:
    """Parse a URL, and see that its driver is there. Neither must be shown before: it may hold a password."""
    if "://" not in storage:
        raise ValueError(f"storage {storage!r} is neither 'memory' nor a URL; for a file, pass a pathlib.Path")
    kind = storage.split("://")[0]
    try:
        url = make_url(storage)
        url.get_dialect().import_dbapi()
    except (ArgumentError, NoSuchModuleError) as error:
        raise ValueError(
            f"storage {kind}://… is no URL of a database that is known here; "
            "write postgresql+psycopg://user:password@host/database, or pass a pathlib.Path for a file"
        ) from error
    except ModuleNotFoundError as error:
        extra = "'shiftadd-transformers[postgres]'" if error.name == "psycopg" else error.name
        raise ValueError(
            f"storage {kind}://… needs the package {error.name}, which is not installed: pip install {extra}"
        ) from error
    return url


def _database(url: URL) -> RDBStorage:
    lite = url.get_backend_name() == "sqlite"
    # An evaluation may take hours, after which a server, or a router on the way, has closed the connection.
    settings: dict[str, Any] = {"connect_args": {"timeout": 60}} if lite else {"pool_pre_ping": True}
    _reach(url)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            database = RDBStorage(url.render_as_string(hide_password=False), engine_kwargs=settings)
            break
        except SQLAlchemyError as error:
            _explain(error, url)
            if attempt == ATTEMPTS:
                raise
            time.sleep(0.1)
    if lite:
        event.listen(database.engine, "connect", _write_ahead)
        event.listen(database.engine, "begin", _begin_to_write)
    elif url.get_backend_name() == "postgresql":
        event.listen(database.engine, "connect", _let_go)
    database.engine.dispose()  # connections made so far do not have the settings
    event.listen(database.engine, "handle_error", lambda context: _instead(context, url), retval=True)
    return database


def _reach(url: URL) -> None:
    """See whether a database answers: Optuna's creation of tables tells a lost server not from a rival."""
    engine = create_engine(url)
    try:
        engine.connect().close()
    except OperationalError as error:
        raise outage(error.orig or error, url, lost=True) or error from error
    finally:
        engine.dispose()


def _explain(error: SQLAlchemyError, url: URL) -> None:
    if isinstance(error, DBAPIError) and error.orig is not None:
        explained = outage(error.orig, url, error.connection_invalidated)
        if explained is not None:
            raise explained from error


def _instead(context: ExceptionContext, url: URL) -> RecordError | None:
    """What is raised in place of a driver's error: None for itself."""
    if context.is_pre_ping:  # a connection that was closed meanwhile is made anew
        return None
    return outage(context.original_exception, url, context.connection is None or context.is_disconnect)


def _write_ahead(connection: Any, record: Any) -> None:
    """A trial is a dozen small commits: wait for the disk at checkpoints, not at each of them."""
    connection.isolation_level = None  # transactions begin where _begin_to_write says
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()


def _let_go(connection: Any, record: Any) -> None:
    """A worker that is suspended in the middle of a change must not keep the others from theirs."""
    with connection.cursor() as cursor:
        cursor.execute("SET idle_in_transaction_session_timeout = '60s'")
    connection.commit()


def _begin_to_write(connection: Connection) -> None:
    """Optuna reads a trial's state, then changes it: nobody else may change it in between."""
    connection.exec_driver_sql("BEGIN IMMEDIATE")
