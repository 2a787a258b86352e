"""Who evaluates what? One Optuna study as the shared record of a search, also between processes.

Each trial publishes its candidate before anything is evaluated. A candidate belongs to the trial with the lowest number
that has published it. To know that it is the lowest, a trial waits until all earlier ones have published theirs, which
takes the time of a proposal (this is Lamport's bakery, with trial numbers as tickets). Trials of a process that has
died, and those that were interrupted, claim nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from .decisions import Candidate
from .objectives import Objective
from .pareto import Point
from .samplers import SeededSampler
from .space import Space

PATIENCE = timedelta(seconds=60)
"""After this time, a trial that has not published its candidate is taken to be dead."""


@dataclass(frozen=True)
class Turn:
    """A trial that has begun.

    Args:
        trial: Optuna's.
        candidate: What it is about.
        known: The earlier trial about the same candidate, finished or not; None if this one is to evaluate it.
        surplus: Whether as many candidates as were asked for are evaluated, or being evaluated, without this one.
    """

    trial: Trial
    candidate: Candidate
    known: FrozenTrial | None = None
    surplus: bool = False


class Ledger:
    """The record of a search.

    Args:
        space: What is searched.
        objectives: What for.
        storage: An open storage.
        name: Of the study; it is continued if it exists.
        sampler: Who proposes, given the distributions of `distributions_of`.

    Raises:
        ValueError: The study belongs to another space or to other objectives.
    """

    def __init__(
        self, space: Space, objectives: Sequence[Objective], storage: BaseStorage, name: str, sampler: SeededSampler
    ) -> None:
        self.space, self.objectives = space, tuple(objectives)
        directions = [StudyDirection.MINIMIZE if o.sign > 0 else StudyDirection.MAXIMIZE for o in objectives]
        with _quiet():
            self.study = optuna.create_study(
                storage=storage, study_name=name, sampler=sampler, directions=directions, load_if_exists=True
            )
        self._insist_on_same_question(name)
        self._distributions = distributions_of(space)
        self._owner = f"{socket.gethostname()}:{os.getpid()}"
        self._sampler = sampler

    def enqueue(self, candidate: Candidate) -> None:
        """Let a candidate be the next."""
        params = {d.name: d.labels[c] for d, c in zip(self.space.decisions, candidate, strict=True)}
        self.study.enqueue_trial(params, user_attrs={"claim": {"candidate": list(candidate)}})

    def begin(self, most: int) -> Turn:
        """Get a proposal and claim it, or say who has.

        Args:
            most: How many candidates may be evaluated in all.
        """
        trial = self.study.ask(self._distributions)
        raw = [d.labels.index(trial.params[d.name]) for d in self.space.decisions]
        candidate = self.space.repair(raw)
        trial.set_user_attr("claim", {"candidate": list(candidate), "owner": self._owner})
        claims = self._claims(before=trial.number)
        known = claims.pop(candidate, None)
        return Turn(trial, candidate, known, known is None and len(claims) >= most)

    def complete(
        self, turn: Turn, scores: Mapping[str, float | None], excess: float, *, repeated: bool = False
    ) -> None:
        """Record scores; what was not measured counts as the worst."""
        for objective in self.objectives:
            value = scores[objective.name]
            if objective.budget is not None and value is not None:
                turn.trial.set_constraint(objective.name, objective.excess(value))
        outcome = {"kind": "repeated" if repeated else "evaluated", "scores": dict(scores), "excess": excess}
        turn.trial.set_user_attr("outcome", outcome)
        worst = {o.name: o.sign * float("inf") for o in self.objectives}
        values = [worst[name] if scores[name] is None else float(scores[name] or 0.0) for name in worst]
        self.study.tell(turn.trial, values)

    def fail(self, turn: Turn, error: str) -> None:
        """Record that an evaluation failed; the candidate will not be tried again."""
        turn.trial.set_user_attr("outcome", {"kind": "failed", "error": error})
        self.drop()

    def drop(self) -> Candidate | None:
        """End this process's last trial, if it is open, without a result.

        Returns:
            Its candidate, which is free again unless it failed; None if nothing was open, or nothing proposed yet.
        """
        if self._sampler.current is None:
            return None
        trial = self.study.get_trials(deepcopy=False)[self._sampler.current]
        if trial.state.is_finished():
            return None
        self.study.tell(trial.number, state=TrialState.FAIL)
        return candidate_of(trial) if "claim" in trial.user_attrs else None

    def claimed(self, *, queued: bool = False) -> set[Candidate]:
        """Candidates that are evaluated, have failed, or are being evaluated; with `queued`, also those that wait."""
        claims = self._claims()
        return {c for c, trial in claims.items() if queued or trial.state != TrialState.WAITING}

    def points(self) -> list[Point]:
        """What was evaluated, in the order of trials."""
        found = []
        for trial in self._of_kind("evaluated"):
            candidate, outcome = candidate_of(trial), trial.user_attrs["outcome"]
            plan = self.space.to_plan(candidate)
            found.append(Point(candidate, plan, outcome["scores"], outcome["excess"], trial.number))
        return found

    def failures(self) -> dict[Candidate, str]:
        """Candidates whose evaluation failed, with the error."""
        return {candidate_of(trial): trial.user_attrs["outcome"]["error"] for trial in self._of_kind("failed")}

    def repeats(self) -> int:
        """How many proposals were answered from the record."""
        return len(self._of_kind("repeated"))

    def _of_kind(self, kind: str) -> list[FrozenTrial]:
        trials = self.study.get_trials(deepcopy=False)
        return [trial for trial in trials if trial.state.is_finished() and outcome_of(trial) == kind]

    def _claims(self, before: int | None = None) -> dict[Candidate, FrozenTrial]:
        """Candidate → the trial that has it; of unfinished trials only those with a number below `before`."""
        while True:
            claims: dict[Candidate, FrozenTrial] = {}
            waiting = False
            for trial in self.study.get_trials(deepcopy=False):
                unfinished = not trial.state.is_finished()
                if unfinished and ((before is not None and trial.number >= before) or self._dead(trial)):
                    continue
                if "claim" not in trial.user_attrs:
                    waiting = waiting or (unfinished and before is not None)
                elif unfinished or outcome_of(trial) in ("evaluated", "failed"):
                    claims.setdefault(candidate_of(trial), trial)
            if not waiting:
                return claims
            time.sleep(0.01)

    def _dead(self, trial: FrozenTrial) -> bool:
        """Whether nobody works on an unfinished trial any more; then it is ended, and its candidate queued."""
        if trial.state != TrialState.RUNNING:
            return False
        claim = trial.user_attrs.get("claim", {})
        if "owner" not in claim:
            return trial.datetime_start is not None and datetime.now() - trial.datetime_start > PATIENCE
        host, _, process = claim["owner"].rpartition(":")
        if host != socket.gethostname() or _runs(int(process)):
            return False
        with _quiet():  # another process may be faster
            self.study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
        self.enqueue(candidate_of(trial))
        return True

    def _insist_on_same_question(self, name: str) -> None:
        digest = hashlib.sha256(json.dumps(self.space.to_dict(), sort_keys=True).encode()).hexdigest()
        asked = {"space": digest, "objectives": [o.to_dict() for o in self.objectives]}
        for key, value in asked.items():
            before = self.study.user_attrs.get(key, value)
            if before != value:
                raise ValueError(
                    f"study {name!r} was about {_other(key, before)}; give this search another name, or ask the same"
                )
            self.study.set_user_attr(key, value)


def distributions_of(space: Space) -> dict[str, BaseDistribution]:
    """A space's decisions as Optuna's parameters: the choices by their labels."""
    return {d.name: CategoricalDistribution(d.labels) for d in space.decisions}


def candidate_of(trial: FrozenTrial) -> Candidate:
    """What a trial is about."""
    return tuple(trial.user_attrs["claim"]["candidate"])


def outcome_of(trial: FrozenTrial) -> str:
    """How a trial ended: "evaluated", "repeated", "failed", or "" without a result."""
    return str(trial.user_attrs.get("outcome", {}).get("kind", ""))


def _other(key: str, before: Any) -> str:
    if key == "space":
        return "another space"
    goals = (f"{o['name']} ({o['direction']}, budget {o['budget']})" for o in before)
    return f"other objectives or budgets: {', '.join(goals)}"


def _runs(process: int) -> bool:
    """Whether a process of this machine is alive."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Optuna's lines about what it makes, finds or skips."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(level)
