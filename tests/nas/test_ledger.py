"""What becomes of a trial whose worker is gone: it ends once, and its candidate or its result is not lost."""

from __future__ import annotations

import pytest
from nas.toys import goals, layers
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from search.ledger import Ledger, distributions_of
from search.outages import RecordError
from search.samplers import SeededSampler

SCORES = {"cost": 1.0, "error": 2.0}


@pytest.fixture
def storage():
    return InMemoryStorage()


def worker_on(storage):
    space = layers(3)
    return Ledger(space, goals(), storage, "search", SeededSampler("nsga2", 0, 6, distributions_of(space)))


def states(ledger):
    return [trial.state for trial in ledger.study.trials]


def test_a_result_without_an_end_is_kept(storage):
    gone, other = worker_on(storage), worker_on(storage)
    turn = gone.begin(9)
    turn.trial.set_user_attr("outcome", {"kind": "evaluated", "scores": SCORES, "excess": 0.0})
    assert other.points() == []
    gone._heart.stop()
    assert other.more(9)
    assert [point.candidate for point in other.points()] == [turn.candidate]
    assert other.study.trials[0].values == [1.0, 2.0]


def test_a_failure_without_an_end_is_not_tried_again(storage):
    gone, other = worker_on(storage), worker_on(storage)
    turn = gone.begin(9)
    turn.trial.set_user_attr("outcome", {"kind": "failed", "error": "too large"})
    gone._heart.stop()
    assert other.more(9)
    assert other.failures() == {turn.candidate: "too large"}
    assert states(other) == [TrialState.FAIL]


def test_a_candidate_is_handed_on_once(storage):
    gone, others = worker_on(storage), [worker_on(storage) for _ in range(2)]
    candidate = gone.begin(9).candidate
    gone._heart.stop()
    trial = gone.study.trials[0]
    for other in others:  # both have seen it before either ends it
        other._settle(trial)
    assert states(gone) == [TrialState.FAIL, TrialState.WAITING]
    assert others[0].begin(9).candidate == candidate
    others[0].drop()


def test_an_end_that_comes_too_late_does_not_count(storage, monkeypatch):
    late, other = worker_on(storage), worker_on(storage)
    turn = late.begin(9)
    told = late.study.tell
    # The other was faster by a moment: it had seen no result yet.
    monkeypatch.setattr(late.study, "tell", lambda *a, **k: (other._end(turn.trial, TrialState.FAIL), told(*a, **k))[1])
    assert not late.complete(turn, SCORES, 0.0)
    assert late.points() == other.points() == []
    assert turn.candidate not in other.claimed()


def test_what_cannot_be_handed_over_now_is_handed_over_later(storage, monkeypatch):
    claimed = []

    def full(*args, **settings):
        raise RecordError("no room")

    def work(worker):
        with monkeypatch.context() as patch, worker:
            claimed.append(worker.begin(9).candidate)
            patch.setattr(storage, "create_new_trial", full)  # trials can be ended still, but not made
            full()

    first, second = worker_on(storage), worker_on(storage)
    with pytest.raises(RecordError):
        work(first)
    assert second.more(9)
    assert second.begin(9).candidate == claimed[0]
    second.drop()


def test_a_proposal_of_a_worker_that_was_taken_to_be_dead_is_made_anew(storage, monkeypatch):
    late, other = worker_on(storage), worker_on(storage)
    sign = late._heart.start

    def resume_late(trial):
        if trial == 0:
            other._end(other.study.trials[0], TrialState.FAIL)
        sign(trial)

    monkeypatch.setattr(late._heart, "start", resume_late)
    assert late.begin(9).trial.number == 1
    assert states(late) == [TrialState.FAIL, TrialState.RUNNING]
    late.drop()
