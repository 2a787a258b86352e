"""Workers on several machines: who is dead is replaced, who is slow is not, and who comes back late does not count."""

from __future__ import annotations

import os
import signal
import time

import pytest
from nas.toys import Recorded, stop_at, told
from nas.workers import kill, search_in, started, suspend, wait_for

from search import lifesigns


@pytest.fixture
def log(tmp_path):
    return tmp_path / "asked"


@pytest.mark.parametrize("file", ["search.db", "search.journal"])
def test_a_candidate_of_a_worker_that_died_elsewhere_is_evaluated(file, tmp_path, log, monkeypatch):
    """The last one, too, when there is nothing else to do but to wait for it."""
    monkeypatch.setattr(lifesigns, "SILENCE", 0.5)
    killed = started(tmp_path / file, log, 6, stop_at(6, kill), place="elsewhere")
    killed.join(60)
    assert killed.exitcode == -signal.SIGKILL
    result = search_in(tmp_path / file, log, 6)
    assert len({point.candidate for point in result.points}) == len(result.points) == 6
    asked = Recorded(log).asked
    assert asked[6:] == [asked[5]]


def test_a_slow_worker_keeps_its_claim(tmp_path, log, monkeypatch):
    monkeypatch.setattr(lifesigns, "BEAT", 0.1)
    monkeypatch.setattr(lifesigns, "SILENCE", 2.0)
    monkeypatch.setattr(lifesigns, "machine", lambda: f"machine of {os.getpid()}")
    slow = started(tmp_path / "search.journal", log, 6, stop_at(2, lambda: time.sleep(4)))
    wait_for(lambda: log.exists() and len(Recorded(log).asked) == 2)
    result = search_in(tmp_path / "search.journal", log, 6)
    assert len(result.points) == 6  # having waited for the slow one
    slow.join(60)
    assert slow.exitcode == 0
    asked = Recorded(log).asked
    assert len(asked) == len(set(asked)) == 6


@pytest.mark.parametrize("file", ["search.db", "search.journal"])
def test_a_result_that_comes_late_does_not_count(file, tmp_path, log, monkeypatch):
    monkeypatch.setattr(lifesigns, "SILENCE", 0.5)
    counted = tmp_path / "counted"

    def note(point):
        with counted.open("a") as lines:
            lines.write(f"{point.number}\n")

    late = started(tmp_path / file, log, 6, stop_at(3, suspend), note, place="elsewhere")
    wait_for(lambda: log.exists() and len(Recorded(log).asked) == 3)
    result = search_in(tmp_path / file, log, 6)
    os.kill(late.pid, signal.SIGCONT)
    late.join(60)
    assert late.exitcode == 0
    asked = Recorded(log).asked
    assert len(result.points) == len(set(asked)) == 6
    assert len(asked) == 7
    assert asked[2] in asked[3:]
    assert counted.read_text().split() == ["0", "1"]
    assert told(search_in(tmp_path / file, log, 6)) == told(result)
