"""Who evaluates what? One Optuna study as the shared record of a search, also between processes.

Each trial publishes its candidate before anything is evaluated. A candidate belongs to the trial with the lowest number
that has published it. To know that it is the lowest, a trial waits until all earlier ones have published theirs, which
takes the time of a proposal (this is Lamport's bakery, with trial numbers as tickets). Trials that were interrupted
claim nothing, and whoever notices that a worker is gone ends its open trial and hands on its candidate.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from .decisions import Candidate
from .lifesigns import Heartbeat, Watch
from .objectives import Objective
from .outages import RecordError
from .pareto import Point
from .samplers import SeededSampler
from .space import Space
from .study import quiet, study_about


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
    """The record of a search, as one worker keeps it. Left as a context, it hands on what is unfinished.

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
        self.study = study_about(space, objectives, storage, name, sampler)
        self._storage, self._number = storage, storage.get_study_id_from_name(name)
        self._sampler = sampler
        self._heart = Heartbeat(storage)
        self._watch = Watch(self._heart.worker)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._heart.stop()
        if not isinstance(error, RecordError):  # then whoever comes next does it: half of a hand-over would be worse
            for trial in self._open():
                self._settle(trial)

    def enqueue(self, candidate: Candidate) -> None:
        """Let a candidate be the next."""
        params = {d.name: d.labels[c] for d, c in zip(self.space.decisions, candidate, strict=True)}
        self.study.enqueue_trial(params, user_attrs={"claim": {"candidate": list(candidate)}})

    def more(self, most: int) -> bool:
        """Wait until there is something to do; False once enough is evaluated.

        What others are evaluating is waited for: it may come back, if its worker dies.

        Args:
            most: How many candidates may be evaluated in all.
        """
        pauses = _pauses()
        while True:
            claims = [trial for trial in self._claims().values() if trial.state != TrialState.WAITING]
            if sum(trial.state.is_finished() for trial in claims) >= most:
                return False
            if len(claims) < most:
                return True
            time.sleep(next(pauses))

    def begin(self, most: int) -> Turn:
        """Get a proposal and claim it, or say who has.

        Args:
            most: How many candidates may be evaluated in all.
        """
        while True:
            try:
                return self._begin(most)
            except UpdateFinishedTrialError:  # suspended for so long that another worker has ended the trial
                continue

    def _begin(self, most: int) -> Turn:
        trial = self.study.ask()
        self._heart.start(self._id(trial.number))
        labels = [trial.suggest_categorical(d.name, d.labels) for d in self.space.decisions]
        raw = [d.labels.index(str(label)) for d, label in zip(self.space.decisions, labels, strict=True)]
        candidate = self.space.repair(raw)
        trial.set_user_attr("claim", {"candidate": list(candidate)})
        claims = self._claims(before=trial.number)
        known = claims.pop(candidate, None)
        return Turn(trial, candidate, known, known is None and len(claims) >= most)

    def complete(
        self, turn: Turn, scores: Mapping[str, float | None], excess: float, *, repeated: bool = False
    ) -> bool:
        """Record scores; what was not measured counts as the worst.

        Returns:
            Whether they count: not if another worker has taken this one to be dead, and the candidate over.
        """
        try:
            for objective in self.objectives:
                value = scores[objective.name]
                if objective.budget is not None and value is not None:
                    turn.trial.set_constraint(objective.name, objective.excess(value))
            outcome = {"kind": "repeated" if repeated else "evaluated", "scores": dict(scores), "excess": excess}
            turn.trial.set_user_attr("outcome", outcome)
            with quiet():
                ended = self.study.tell(turn.trial, self._values(scores), skip_if_finished=True)
        except UpdateFinishedTrialError:
            return False
        finally:
            self._heart.stop()
        return ended.state == TrialState.COMPLETE

    def fail(self, turn: Turn, error: str) -> None:
        """Record that an evaluation failed; the candidate will not be tried again."""
        try:
            turn.trial.set_user_attr("outcome", {"kind": "failed", "error": error})
        except UpdateFinishedTrialError:  # another worker tries it
            return
        self.drop()

    def drop(self) -> None:
        """End this worker's trial, if it is open, without a result: its candidate is free, unless it failed."""
        self._heart.stop()
        for trial in self._open():
            self._end(trial, TrialState.FAIL)

    def claimed(self) -> set[Candidate]:
        """Candidates that are evaluated, have failed, are being evaluated, or wait for it."""
        return set(self._claims())

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
        pauses = _pauses()
        while True:
            claims: dict[Candidate, FrozenTrial] = {}
            waiting = False
            for trial in self._trials():
                unfinished = not trial.state.is_finished()
                if unfinished and before is not None and trial.number >= before:
                    continue
                if "claim" not in trial.user_attrs:
                    waiting = waiting or (unfinished and before is not None)
                elif unfinished or outcome_of(trial) in ("evaluated", "failed"):
                    claims.setdefault(candidate_of(trial), trial)
            if not waiting:
                return claims
            time.sleep(next(pauses))

    def _trials(self) -> list[FrozenTrial]:
        """All trials, after those whose workers are gone were ended."""
        while True:
            trials = self.study.get_trials(deepcopy=False)
            left = [trial for trial in trials if trial.state == TrialState.RUNNING and self._watch.gone(trial)]
            if not left:
                return trials
            for trial in left:
                self._settle(trial)

    def _open(self) -> list[FrozenTrial]:
        """This worker's trial, if it has begun one that nobody has ended."""
        if self._sampler.current is None:
            return []
        trial = self.study.get_trials(deepcopy=False)[self._sampler.current]
        return [] if trial.state.is_finished() else [trial]

    def _settle(self, trial: FrozenTrial) -> None:
        """End an abandoned trial: with its result if it has left one, else by handing on its candidate."""
        trial = self._storage.get_trial(self._id(trial.number))  # its worker may have recorded more before it ended
        outcome = trial.user_attrs.get("outcome", {})
        if "scores" in outcome:
            self._end(trial, TrialState.COMPLETE, self._values(outcome["scores"]))
        elif self._end(trial, TrialState.FAIL) and "claim" in trial.user_attrs and not outcome:
            self.enqueue(candidate_of(trial))

    def _end(self, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """End a trial, unless somebody was faster; the sampler, which keeps to its own trials, does not hear of it."""
        try:
            return self._storage.set_trial_state_values(self._id(trial.number), state, values)
        except UpdateFinishedTrialError:
            return False

    def _id(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._number, number)

    def _values(self, scores: Mapping[str, float | None]) -> list[float]:
        worst = {o.name: o.sign * float("inf") for o in self.objectives}
        return [worst[name] if scores[name] is None else float(scores[name] or 0.0) for name in worst]


def distributions_of(space: Space) -> dict[str, BaseDistribution]:
    """A space's decisions as Optuna's parameters: the choices by their labels."""
    return {d.name: CategoricalDistribution(d.labels) for d in space.decisions}


def candidate_of(trial: FrozenTrial) -> Candidate:
    """What a trial is about."""
    return tuple(trial.user_attrs["claim"]["candidate"])


def outcome_of(trial: FrozenTrial) -> str:
    """How a trial ended: "evaluated", "repeated", "failed", or "" without a result that counts."""
    kind = str(trial.user_attrs.get("outcome", {}).get("kind", ""))
    return kind if trial.state == (TrialState.FAIL if kind == "failed" else TrialState.COMPLETE) else ""


def _pauses() -> Iterator[float]:
    """Seconds between looks: few at first, never more than one."""
    pause = 0.01
    while True:
        yield pause
        pause = min(2 * pause, 1.0)
