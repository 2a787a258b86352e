"""Storages that cannot be opened: errors that say why, and keep passwords to themselves."""

from __future__ import annotations

import sqlite3
import sys

import pytest
from nas.toys import goals, layers
from sqlalchemy.engine import make_url

from search import evolve
from search.outages import RecordError, outage


def opening(storage):
    return evolve(layers(2), goals(), evaluations=1, storage=storage)


def test_a_server_that_does_not_answer():
    with pytest.raises(
        RecordError, match=r"postgresql\+psycopg://ann:\*\*\*@127\.0\.0\.1:9/studies.*reached"
    ) as raised:
        opening("postgresql+psycopg://ann:secret@127.0.0.1:9/studies?passfile=hidden&connect_timeout=5")
    assert "secret" not in str(raised.value)
    assert "hidden" not in str(raised.value)
    assert "connect_timeout=5" in str(raised.value)


def test_a_driver_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ValueError, match=r"package psycopg.*pip install 'shiftadd-transformers\[postgres\]'") as raised:
        opening("postgresql+psycopg://ann:secret@127.0.0.1/studies")
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("storage", ["postgres://ann:secret@host/db", "nothing://ann:secret@host", "sqlite+://secret"])
def test_an_unknown_database(storage):
    with pytest.raises(ValueError, match="no URL of a database that is known") as raised:
        opening(storage)
    assert "secret" not in str(raised.value)


def test_a_folder_that_does_not_exist(tmp_path):
    with pytest.raises(RecordError, match=r"missing/search\.db.*unable to open"):
        opening(f"sqlite:///{tmp_path / 'missing' / 'search.db'}")


def test_errors_about_something_else_are_left_alone():
    url = make_url("postgresql://host/db")
    assert outage(sqlite3.OperationalError("no such table"), url, lost=False) is None

    class DiskFullError(Exception):
        sqlstate = "53100"

    assert "no room" in str(outage(DiskFullError("could not extend file"), url, lost=False))
