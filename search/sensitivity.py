"""Where does a search start? At the plans that look best if layers did not interact.

Changing one decision at a time and measuring the loss says how sensitive each layer is to each operator. The sum over
decisions predicts the loss of any plan, without training and with as many measurements as there are choices; minimising
it together with the cost, for several prices of the cost, gives plans from cheap to good.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from shiftadd_transformers.plan import Plan

from .decisions import Candidate
from .objectives import Objective
from .space import Space

Number = Callable[[Plan], float]


@dataclass(frozen=True)
class Sensitivity:
    """What single choices change, from a plan on.

    Args:
        space: Whose decisions.
        base: The candidate that was changed, usually the dense one.
        at_base: Loss and cost there.
        changes: Per decision and choice, by how much loss and cost grow.
    """

    space: Space
    base: Candidate
    at_base: tuple[float, float]
    changes: tuple[tuple[tuple[float, float], ...], ...]

    @classmethod
    def measured(cls, space: Space, loss: Number, cost: Number, base: Candidate) -> Sensitivity:
        """Change each decision alone.

        Args:
            space: What is searched.
            loss: Less is better; asked once per choice.
            cost: Likewise.
            base: Where from.
        """
        kept = space.repair(base)
        start = space.to_plan(kept)
        at_base = (loss(start), cost(start))
        changes = []
        for d, decision in enumerate(space.decisions):
            row = []
            for choice in range(len(decision.values)):
                plan = space.to_plan(space.canonical((*kept[:d], choice, *kept[d + 1 :])))
                same = choice == kept[d]
                row.append((0.0, 0.0) if same else (loss(plan) - at_base[0], cost(plan) - at_base[1]))
            changes.append(tuple(row))
        return cls(space, kept, at_base, tuple(changes))

    def predicted(self, candidate: Sequence[int]) -> tuple[float, float]:
        """Loss and cost if nothing interacted."""
        parts = [row[choice] for row, choice in zip(self.changes, candidate, strict=True)]
        return tuple(at + sum(part[i] for part in parts) for i, at in enumerate(self.at_base))  # type: ignore[return-value]

    def starts(self, count: int) -> list[Candidate]:
        """Up to `count` candidates from the cheapest to the best, by these predictions.

        Each minimises loss + price · cost, exactly where no limit binds, for prices at which some choice changes.
        """
        prices = sorted({price for row in self.changes for price in _turning_points(row)})
        middles = [math.sqrt(a * b) for a, b in pairwise(prices)]
        ends = [prices[0] / 2, prices[-1] * 2] if prices else [0.0]
        found = [self._cheapest(price) for price in sorted({*middles, *ends})]
        unique = list(dict.fromkeys(found))
        if len(unique) <= count:
            return unique
        return [unique[round(i * (len(unique) - 1) / (count - 1))] for i in range(count)] if count > 1 else unique[:1]

    def _cheapest(self, price: float) -> Candidate:
        choices = [min(range(len(row)), key=lambda c: row[c][0] + price * row[c][1]) for row in self.changes]
        return self.space.repair(choices)


def warm_starts(
    space: Space, quality: Objective, cost: Objective, evaluations: int, count: int = 16
) -> list[Candidate]:
    """Where a search begins: uniform plans, each single change of the dense one, and the plans that these promise.

    All of them are evaluations of the search like any other, so `quality` should remember what it measured (see
    `remembered`). Without room for them, the uniform plans alone.

    Args:
        space: What is searched.
        quality: What plans are good at.
        cost: What they are to save.
        evaluations: How many the search may make.
        count: Plans from the predictions.
    """
    base, uniform = space.uniform("dense"), list(space.reference_points().values())
    singles = [base, *space.neighbours(base)]
    if len(singles) + len(uniform) + count > evaluations:
        return uniform
    found = Sensitivity.measured(space, _to_minimise(quality), _to_minimise(cost), base)
    return [*uniform, *singles, *found.starts(count)]


def _to_minimise(objective: Objective) -> Number:
    return lambda plan: objective.sign * objective.measure(plan)


def _turning_points(row: Sequence[tuple[float, float]]) -> list[float]:
    """Prices at which two choices of a decision are equally good."""
    pairs = [(a, b) for i, a in enumerate(row) for b in row[i + 1 :] if a[1] != b[1]]
    return [price for a, b in pairs if (price := (a[0] - b[0]) / (b[1] - a[1])) > 0]
