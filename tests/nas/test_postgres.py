"""Several processes, one study on a PostgreSQL server: nothing is lost or done twice, whoever is killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
from uuid import uuid4

import pytest
from nas.postgres import Server, programs
from nas.toys import Recorded, stop_at
from nas.workers import kill, search_in, started, suspend, wait_for
from optuna.storages import RDBStorage
from sqlalchemy import create_engine

from search import lifesigns
from search.outages import RecordError
from search.storage import opened


@pytest.fixture(scope="module")
def server():
    if programs() is None:
        reason = "no PostgreSQL server is installed: apt-get install postgresql"
        if os.environ.get("SHIFTADD_CI") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    server = Server()
    yield server
    server.close()


@pytest.fixture
def url(server):
    """Of a database for one test."""
    name = f"test_{uuid4().hex}"
    engine = create_engine(server.url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    engine.dispose()
    return server.url.removesuffix("postgres") + name


@pytest.fixture
def log(tmp_path):
    return tmp_path / "asked"


@pytest.mark.parametrize("place", [None, "elsewhere"])
def test_one_of_two_processes_is_killed_in_the_middle_of_a_trial(place, url, log, monkeypatch):
    monkeypatch.setattr(lifesigns, "BEAT", 0.1)
    monkeypatch.setattr(lifesigns, "SILENCE", 2.0)
    met = multiprocessing.get_context("fork").Barrier(2)
    # Both are at work when the first is killed: it waits for the other's first evaluation.
    killed = started(url, log, 14, lambda asked: (met.wait(60), kill()), place=place)
    survivor = started(url, log, 14, lambda asked: met.wait(60) if asked <= 2 else None)
    killed.join(60)
    survivor.join(60)
    assert (killed.exitcode, survivor.exitcode) == (-signal.SIGKILL, 0)
    result = search_in(url, log, 14)
    asked = Recorded(log).asked
    assert len({point.candidate for point in result.points}) == len(result.points) == 14
    assert len(set(asked)) == 14
    assert len(asked) == 15  # the one that was killed in the middle of it, again
    assert result.failures == {}


def test_a_result_that_comes_late_does_not_count(url, log, monkeypatch):
    monkeypatch.setattr(lifesigns, "SILENCE", 0.5)
    late = started(url, log, 8, stop_at(3, suspend), place="elsewhere")
    wait_for(lambda: log.exists() and len(Recorded(log).asked) == 3)
    result = search_in(url, log, 8)
    os.kill(late.pid, signal.SIGCONT)
    late.join(60)
    assert late.exitcode == 0
    assert len(search_in(url, log, 8).points) == len(result.points) == len(set(Recorded(log).asked)) == 8
    assert len(Recorded(log).asked) == 9


def test_a_server_that_stops_is_an_error_and_the_search_goes_on_afterwards(server, url, log):
    with pytest.raises(RecordError, match=r"127\.0\.0\.1.*cannot be reached.*same call") as raised:
        search_in(url, log, 10, stop_at(5, server.stop))
    assert "secret" not in str(raised.value)
    with pytest.raises(RecordError, match=r"127\.0\.0\.1.*cannot be reached.*same call"):
        search_in(url, log, 10)
    server.start()
    result = search_in(url, log, 10)
    assert len({point.candidate for point in result.points}) == len(result.points) == 10
    asked = Recorded(log).asked
    assert asked[5:].count(asked[4]) == 1  # its result could not be recorded
    assert len(asked) == 11


def test_a_server_that_restarts_during_an_evaluation_goes_unnoticed(server, url, log):
    result = search_in(url, log, 6, stop_at(4, lambda: (server.stop(), server.start())))
    assert len(result.points) == len(Recorded(log).asked) == 6


def test_a_suspended_worker_does_not_keep_others_from_their_changes(url):
    with opened(url) as storage:
        database = storage._backend
        assert isinstance(database, RDBStorage)
        with database.engine.connect() as connection:
            shown = connection.exec_driver_sql("SHOW idle_in_transaction_session_timeout").scalar()
    assert shown == "1min"
