"""Processes that search together: what the tests of shared studies have in common."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time

from nas.toys import Recorded, error, layers

from search import Objective, evolve, lifesigns

FORK = multiprocessing.get_context("fork")


def search_in(storage, log, evaluations, act=None, after=None):
    """A search that writes down what it evaluates."""
    objectives = [Objective("cost", Recorded(log, act)), Objective("error", error)]
    return evolve(layers(3), objectives, evaluations=evaluations, storage=storage, population=6, after=after)


def started(*args, place=None, **settings):
    """The same in a process of its own, as if on another machine if `place` is given.

    From such a one, only the first sign of life comes: a process that is stopped at a random moment may hold a file's
    lock, which the others respect for half a minute.
    """

    def run():
        if place is not None:
            lifesigns.machine, lifesigns.BEAT = lambda: place, 3600
        search_in(*args, **settings)

    process = FORK.Process(target=run)
    process.start()
    return process


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def suspend():
    os.kill(os.getpid(), signal.SIGSTOP)


def wait_for(condition, seconds=60):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)
