"""How is a space searched? Proposals, one evaluation per candidate, and a front of plans at the end."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from shiftadd_transformers.plan import Plan

from .decisions import Candidate
from .ledger import Ledger, Turn, distributions_of, outcome_of
from .objectives import Objective
from .pareto import Front, Point, hypervolume, losses_of
from .samplers import SeededSampler
from .space import Space
from .storage import opened

REPEATS = 8
"""After so many repeated proposals in a row, a new candidate is drawn at random."""
SMALL = 5000
"""Up to this size, the candidates that are left can be listed."""


@dataclass(frozen=True)
class Result:
    """What a search has found.

    Args:
        objectives: What for.
        points: All evaluated candidates, in order.
        failures: Candidates whose evaluation failed, with the error.
        repeats: Proposals that were answered from the record.
        interrupted: Whether it was stopped before its end.
    """

    objectives: tuple[Objective, ...]
    points: tuple[Point, ...]
    failures: Mapping[Candidate, str]
    repeats: int = 0
    interrupted: bool = False

    @cached_property
    def front(self) -> Front:
        """The non-dominated plans within the budgets; empty if none is."""
        return Front.of(self.objectives, self.points)

    @property
    def closest(self) -> Point | None:
        """The plan that exceeds the budgets least; one within them if there is any."""
        return min(self.points, key=lambda point: (point.excess, point.number), default=None)

    def hypervolume_history(self, reference: Sequence[float] | None = None) -> list[float]:
        """Volume that the front covers after each evaluation.

        Args:
            reference: In the objectives' own units; by default the worst value of each among the feasible points, so
                that histories of different searches are comparable only with one given here.
        """
        losses = [losses_of(self.objectives, point) if point.feasible else None for point in self.points]
        able = [loss for loss in losses if loss is not None]
        corner = [o.sign * value for o, value in zip(self.objectives, reference, strict=True)] if reference else []
        corner = corner or [max(column) for column in zip(*able, strict=True)]
        best: list[tuple[float, ...]] = []
        history = [0.0]
        for loss in losses:
            beaten = loss is None or any(all(x <= y for x, y in zip(b, loss, strict=True)) for b in best)
            if loss is None or beaten:
                history.append(history[-1])
                continue
            best = [b for b in best if not all(x <= y for x, y in zip(loss, b, strict=True))] + [loss]
            history.append(hypervolume(best, corner))
        return history[1:]

    def summary(self) -> str:
        """What came out, in words; where nothing fits the budgets, what comes closest and what it would take."""
        tried = f"{len(self.points)} plans evaluated, {self.repeats} proposals repeated, {len(self.failures)} failed"
        if self.front.points:
            return f"{len(self.front.points)} plans on the front; {tried}"
        if self.closest is None:
            error = next(iter(self.failures.values()), "nothing was evaluated")
            return f"no plan could be evaluated ({tried}); the first error: {error}"
        budgets = []
        for o in (o for o in self.objectives if o.budget is not None):
            value = self.closest.scores[o.name]
            over = f", {o.excess(value):.1%} beyond" if value is not None and o.excess(value) > 0 else ""
            budgets.append(f"{o.name} {o.shown(value)} (budget {o.shown(o.budget)}{over})")
        return (
            f"no plan is within the budgets; {tried}. The closest has {', '.join(budgets)}: "
            f"{self.closest.plan.summary()}. Raise the budget, offer cheaper operators, or search longer"
        )


def evolve(
    space: Space,
    objectives: Sequence[Objective],
    *,
    evaluations: int,
    sampler: str = "nsga2",
    population: int = 24,
    seed: int = 0,
    storage: str | Path = "memory",
    name: str = "search",
    starts: Sequence[Candidate] | None = None,
    after: Callable[[Point], None] | None = None,
) -> Result:
    """Search a space for the plans that are best in all objectives.

    Objectives with a budget are measured first; where one is exceeded, the others are not measured. Each candidate is
    evaluated once, however often it is proposed, also by several processes with the same storage and name; they take
    over from one that dies, and each returns when all is evaluated. A study that exists is continued. Ctrl-C ends the
    search with what there is.

    Args:
        space: What to choose from.
        objectives: What to choose by; one or more.
        evaluations: Candidates to evaluate in all, those of earlier and parallel runs included.
        sampler: "nsga2", "tpe" or "random".
        population: Of "nsga2"; random trials before "tpe" takes over.
        seed: Same seed, same search.
        storage: "memory", a URL for Optuna, or the path of a file.
        name: Of the study in the storage.
        starts: Evaluated first; by default the space's uniform candidates.
        after: Called with each new point.

    Returns:
        All that the study holds.

    Raises:
        ValueError: Settings do not fit each other or the study.
        OSError: The storage is full or cannot be reached; the same call goes on once it can be written to.

    References:
        Deb et al., A fast and elitist multiobjective genetic algorithm: NSGA-II, 2002, as in Optuna; You et al.,
        ShiftAddNAS, ICML 2022. Differs: a front instead of one winner under a hard limit, and a score without the
        cost mixed in.
    """
    if not objectives or len({o.name for o in objectives}) < len(objectives):
        raise ValueError(f"a search needs objectives with different names, not {[o.name for o in objectives]}")
    if evaluations < 1:
        raise ValueError(f"evaluations must be at least 1, not {evaluations}")
    proposer = SeededSampler(sampler, seed, population, distributions_of(space))
    with opened(storage) as record, Ledger(space, objectives, record, name, proposer) as ledger:
        if not ledger.study.get_trials(deepcopy=False):
            for candidate in dict.fromkeys(map(space.repair, starts or space.reference_points().values())):
                ledger.enqueue(candidate)
        interrupted = False
        try:
            _run(ledger, min(evaluations, space.count()), seed, after)
        except KeyboardInterrupt:
            interrupted = True
        return Result(ledger.objectives, tuple(ledger.points()), ledger.failures(), ledger.repeats(), interrupted)


def measure(objectives: Sequence[Objective], plan: Plan) -> tuple[dict[str, float | None], float]:
    """Score a plan: objective → value, and by how much budgets are exceeded in all.

    Raises:
        ValueError: An objective is not a number.
    """
    scores: dict[str, float | None] = {o.name: None for o in objectives}
    excess = 0.0
    for objective in sorted(objectives, key=lambda o: o.budget is None):
        if objective.budget is None and excess > 0:
            break
        value = float(objective.measure(plan))
        if not math.isfinite(value):
            raise ValueError(f"{objective.name} is {value}")
        scores[objective.name] = value
        excess += max(0.0, objective.excess(value))
    return scores, excess


def _run(ledger: Ledger, most: int, seed: int, after: Callable[[Point], None] | None) -> None:
    """Take turns until so many candidates are evaluated, or none is left."""
    repeated = 0
    while ledger.more(most):
        turn = ledger.begin(most)
        if turn.surplus:
            ledger.drop()
            continue
        if turn.known is None:
            repeated = 0
            _evaluate(ledger, turn, after)
            continue
        repeated += 1
        _repeat(ledger, turn)
        if repeated >= REPEATS:
            fresh = _unclaimed(ledger, random.Random(f"{seed}/{turn.trial.number}"))
            if fresh is None:
                return
            ledger.enqueue(fresh)
            repeated = 0


def _evaluate(ledger: Ledger, turn: Turn, after: Callable[[Point], None] | None) -> None:
    plan = ledger.space.to_plan(turn.candidate)
    try:
        scores, excess = measure(ledger.objectives, plan)
    except Exception as error:
        ledger.fail(turn, f"{type(error).__name__}: {error}")
        return
    if ledger.complete(turn, scores, excess) and after is not None:
        after(Point(turn.candidate, plan, scores, excess, turn.trial.number))


def _repeat(ledger: Ledger, turn: Turn) -> None:
    """Answer a proposal from the record, where it has an answer already."""
    known = turn.known
    if known is not None and known.state.is_finished() and outcome_of(known) == "evaluated":
        outcome = known.user_attrs["outcome"]
        ledger.complete(turn, outcome["scores"], outcome["excess"], repeated=True)
    else:
        ledger.drop()


def _unclaimed(ledger: Ledger, rng: random.Random) -> Candidate | None:
    """A candidate that nobody has proposed; None if there is none, or none is found."""
    claimed = ledger.claimed()
    if ledger.space.count() <= SMALL:
        left = [candidate for candidate in ledger.space.every() if candidate not in claimed]
        return rng.choice(left) if left else None
    drawn = (ledger.space.sample(rng) for _ in range(200))
    return next((candidate for candidate in drawn if candidate not in claimed), None)
