"""Who is still at work? Signs that workers leave on their open trials, and what others conclude from them.

An evaluation may take hours, on a machine whose clock is wrong: neither a trial's age nor a time written on it says
whether somebody works on it. So a worker counts up on its open trial, and whoever looks on measures with its own clock
for how long the count has stood still. On its own machine it looks for the process instead, and knows at once.

A worker that was only suspended may come back after its trial was ended. Whoever ends a trial first counts; the storage
lets nobody end it again.
"""

from __future__ import annotations

import os
import socket
import time
import uuid
from functools import cache
from pathlib import Path
from threading import Event, Thread
from typing import Any

from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

BEAT = 15.0
"""Seconds between two signs of life."""
SILENCE = 90.0
"""After so many seconds without one, a worker is taken to be dead."""
UNSIGNED = 20.0
"""The same for a trial that nobody has signed, which is what a worker does first."""

_BEATING: set[str] = set()
"""This process's workers with an open trial."""


class Heartbeat:
    """A worker's signs of life, on one trial after the other.

    Args:
        storage: Where the trials are; written to by a thread of its own, which Optuna's storages bear.
    """

    def __init__(self, storage: BaseStorage) -> None:
        self._storage = storage
        self._thread: Thread | None = None
        self._stopped = Event()
        self.worker = uuid.uuid4().hex

    def start(self, trial: int) -> None:
        """Sign a trial, and count up on it from now on.

        Args:
            trial: Its id in the storage.

        Raises:
            UpdateFinishedTrialError: It was ended by another worker.
        """
        self.stop()
        _BEATING.add(self.worker)
        owner = {"worker": self.worker, "process": os.getpid(), "machine": machine(), "host": socket.gethostname()}
        self._storage.set_trial_user_attr(trial, "owner", owner)
        self._stopped = Event()
        self._thread = Thread(target=self._beat, args=(trial, self._stopped), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Give no sign any more; the trial, if it is open still, counts as abandoned."""
        _BEATING.discard(self.worker)
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _beat(self, trial: int, stopped: Event) -> None:
        count = 0
        while not stopped.wait(BEAT):
            count += 1
            try:
                self._storage.set_trial_user_attr(trial, "beat", count)
            except UpdateFinishedTrialError:
                return
            except Exception:  # an outage may pass; if it does not, the worker meets it too, and can say so
                continue


class Watch:
    """What one worker has seen of the others.

    Args:
        worker: Whose trials are not in question.
    """

    def __init__(self, worker: str) -> None:
        self._worker = worker
        self._seen: dict[int, tuple[Any, float]] = {}

    def gone(self, trial: FrozenTrial) -> bool:
        """Whether nobody works on a running trial any more."""
        owner = trial.user_attrs.get("owner", {})
        if owner.get("worker") == self._worker:
            return False
        if owner and _ended(owner):
            return True
        signs, now = (owner.get("worker"), trial.user_attrs.get("beat")), time.monotonic()
        before, since = self._seen.get(trial.number, (None, now))
        if signs != before:
            self._seen[trial.number] = signs, now
            return False
        return now - since > (SILENCE if owner else UNSIGNED)


@cache
def machine() -> str:
    """What process ids are unique in: this start of this machine, and in it this container. The host's name if unknown.

    A name is not enough: containers may share one, and a process that has it and the number of a dead one may live.
    """
    try:
        start = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{start}/{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return socket.gethostname()


def _ended(owner: dict[str, Any]) -> bool:
    """Whether a worker is known to have ended; False also if it cannot be known from here."""
    if owner["machine"] != machine():
        return False
    if owner["process"] == os.getpid():
        return owner["worker"] not in _BEATING
    try:
        os.kill(owner["process"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
