"""Several processes, one study: nothing is evaluated twice, and who dies claims nothing."""

from __future__ import annotations

import signal

import pytest
from nas.toys import Recorded, stop_at
from nas.workers import kill, search_in, started


@pytest.fixture
def log(tmp_path):
    return tmp_path / "asked"


def test_a_killed_process_claims_nothing(tmp_path, log):
    storage = tmp_path / "search.journal"
    killed = started(storage, log, 20, stop_at(5, kill))
    killed.join(60)
    assert killed.exitcode == -signal.SIGKILL
    result = search_in(storage, log, 20)
    assert len(result.points) == 20
    asked = Recorded(log).asked
    assert len(asked) == 21
    assert asked[4] in asked[5:]


@pytest.mark.parametrize(("file", "evaluations"), [("search.db", 9), ("search.journal", 15), ("search.journal", 27)])
def test_two_processes_share_a_study_and_repeat_nothing(file, evaluations, tmp_path, log):
    storage = tmp_path / file
    workers = [started(storage, log, evaluations) for _ in range(2)]
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0, 0]
    asked = Recorded(log).asked
    assert len(asked) == len(set(asked)) == evaluations
    result = search_in(storage, log, evaluations)
    assert len(result.points) == evaluations
    assert len(Recorded(log).asked) == evaluations
