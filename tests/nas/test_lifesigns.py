"""When is a worker taken to be dead?"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import optuna
import pytest

from search import lifesigns
from search.lifesigns import Heartbeat, Watch, machine

optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.fixture
def clock(monkeypatch):
    """The observer's, which tests advance."""
    now = [1000.0]
    monkeypatch.setattr("search.lifesigns.time.monotonic", lambda: now[0])
    return now


def trial_of(beat=None, *, place="elsewhere", process=1, worker="other"):
    owner = {"worker": worker, "process": process, "machine": place}
    attributes = {"owner": owner} | ({} if beat is None else {"beat": beat})
    return optuna.trial.create_trial(state=optuna.trial.TrialState.RUNNING, user_attrs=attributes)


def test_a_count_that_stands_still_is_a_dead_worker(clock):
    watch = Watch("me")
    for beat in (None, 1, 2):
        assert not watch.gone(trial_of(beat))
        clock[0] += lifesigns.SILENCE - 1
        assert not watch.gone(trial_of(beat))
    clock[0] += 2
    assert watch.gone(trial_of(2))


def test_who_looks_rarely_takes_nobody_for_dead(clock):
    watch = Watch("me")
    for beat in range(5):
        assert not watch.gone(trial_of(beat))
        clock[0] += 20 * lifesigns.SILENCE


def test_a_trial_that_nobody_has_signed_is_given_up(clock):
    watch, unsigned = Watch("me"), optuna.trial.create_trial(state=optuna.trial.TrialState.RUNNING)
    assert not watch.gone(unsigned)
    clock[0] += lifesigns.UNSIGNED + 1
    assert watch.gone(unsigned)


def test_a_process_that_ended_on_this_machine_is_known_at_once():
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert Watch("me").gone(trial_of(place=machine(), process=ended.pid))
    assert not Watch("me").gone(trial_of(place=machine(), process=os.getppid()))
    assert not Watch("me").gone(trial_of(place="a container with the same name", process=ended.pid))


def test_ones_own_trial_is_never_given_up(clock):
    watch, own = Watch("me"), trial_of(place=machine(), process=os.getpid(), worker="me")
    assert not watch.gone(own)
    clock[0] += 10 * lifesigns.SILENCE
    assert not watch.gone(own)


def test_a_heart_beats_while_its_trial_is_open(monkeypatch):
    threads = set(threading.enumerate())
    monkeypatch.setattr(lifesigns, "BEAT", 0.01)
    study = optuna.create_study()
    trial = study.ask()
    heart = Heartbeat(study._storage)
    heart.start(trial._trial_id)
    signed = study.trials[0].user_attrs["owner"]
    assert (signed["process"], signed["machine"]) == (os.getpid(), machine())
    until = time.monotonic() + 20
    while study.trials[0].user_attrs.get("beat", 0) < 3 and time.monotonic() < until:
        time.sleep(0.01)
    assert not Watch("me").gone(study.trials[0])
    heart.stop()
    assert set(threading.enumerate()) <= threads
    count = study.trials[0].user_attrs["beat"]
    assert count >= 3
    assert Watch("me").gone(study.trials[0])  # this process lives, but nobody in it works on the trial
    time.sleep(0.05)
    assert study.trials[0].user_attrs["beat"] == count


def test_a_heart_stops_when_its_trial_was_ended_by_another(monkeypatch):
    monkeypatch.setattr(lifesigns, "BEAT", 0.01)
    study = optuna.create_study()
    trial = study.ask()
    heart = Heartbeat(study._storage)
    heart.start(trial._trial_id)
    study.tell(trial, state=optuna.trial.TrialState.FAIL)
    heart._thread.join(20)
    assert not heart._thread.is_alive()
    heart.stop()
