"""What is a search for? Numbers that plans are compared by, with directions and budgets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from shiftadd_transformers.cost import CostReport
from shiftadd_transformers.cost.latency import LatencyTable
from shiftadd_transformers.plan import Plan

from .costs import Costs
from .work import Work

Direction = Literal["minimise", "maximise"]


@dataclass(frozen=True)
class Objective:
    """A number that a plan has.

    Args:
        name: Unique in a search.
        measure: Plan → number. It may be slow; a search asks once per candidate.
        direction: Whether less or more is better.
        unit: For people.
        budget: The worst value that is acceptable; None accepts all.

    >>> energy = Objective("energy", lambda plan: 1.0, unit="pJ", budget=2.0)
    >>> energy.excess(3.0), energy.excess(1.0)
    (0.5, -0.5)
    """

    name: str
    measure: Callable[[Plan], float]
    direction: Direction = "minimise"
    unit: str = ""
    budget: float | None = None

    def __post_init__(self) -> None:
        if self.direction not in get_args(Direction):
            raise ValueError(f"{self.name}: direction must be one of {', '.join(get_args(Direction))}")

    @property
    def sign(self) -> int:
        """1 where less is better, −1 where more is."""
        return 1 if self.direction == "minimise" else -1

    def excess(self, value: float) -> float:
        """How far a value is beyond the budget, in parts of the budget; at most 0 if it is within."""
        if self.budget is None:
            return 0.0
        return self.sign * (value - self.budget) / (abs(self.budget) or 1.0)

    def shown(self, value: float | None) -> str:
        """A value with its unit."""
        return "not measured" if value is None else f"{value:.4g} {self.unit}".strip()

    def to_dict(self) -> dict[str, Any]:
        """JSON form, without the function."""
        return {"name": self.name, "direction": self.direction, "unit": self.unit, "budget": self.budget}


def multiplications(costs: Costs, budget: float | None = None) -> Objective:
    """Multiplications of one forward."""
    return Objective("multiplications", costs.priced(lambda work: work.row.counts.multiply), budget=budget)


def operations(costs: Costs, budget: float | None = None) -> Objective:
    """Multiplications, additions, shifts and look-ups of one forward."""
    return Objective("operations", costs.priced(lambda work: work.row.counts.total), budget=budget)


def energy(costs: Costs, budget: float | None = None, *, table: str = "asic45") -> Objective:
    """Energy of one forward with memory traffic, in picojoules by an energy table."""
    price = costs.priced(lambda work: CostReport((work.row,)).energy(table).total_pj)
    return Objective(f"energy ({table})", price, unit="pJ", budget=budget)


def stored_bytes(costs: Costs, budget: float | None = None) -> Objective:
    """Bytes of the packed checkpoint's tensors."""
    return Objective("stored bytes", costs.priced(lambda work: work.stored_bytes), unit="B", budget=budget)


def latency(costs: Costs, table: LatencyTable, budget: float | None = None) -> Objective:
    """Microseconds of all linear layers, one after the other, as they were measured on a machine.

    Attention cores, normalisations and embeddings are not in it.

    Args:
        costs: Says which layers a plan has, and for how many rows.
        table: Measured times; rows beyond the measured numbers are errors.
        budget: Microseconds that are acceptable.

    Raises:
        ValueError: The table lacks an operator or a shape.
    """

    def price(work: Work) -> float:
        try:
            return sum(table.us(spec, m.rows, m.in_features, m.out_features) for spec, m in work.linears)
        except KeyError as error:
            raise ValueError(
                f"the latency table cannot price the space: {error.args[0]}. Measure it with `shiftadd profile "
                "kernels` (its options name operators, shapes and rows), or leave the choice out of the space"
            ) from None

    return Objective("latency of linear layers", costs.priced(price), unit="µs", budget=budget)
