"""What is a search for? Numbers that plans are compared by, with directions and budgets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from shiftadd_transformers.cost import CostReport
from shiftadd_transformers.cost.latency import LatencyTable
from shiftadd_transformers.plan import Plan

from .calibration import Calibration, table_us
from .costs import Costs

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


def latency(
    costs: Costs, table: LatencyTable, budget: float | None = None, *, calibration: Calibration | None = None
) -> Objective:
    """Microseconds of all linear layers and attentions, one after the other, as they were measured on a machine.

    Normalisations, embeddings and what the framework spends are not in a table: a calibration adds them.

    Args:
        costs: Says which layers and attentions a plan has, and of which sizes.
        table: Measured times; rows and tokens beyond the measured numbers are errors.
        budget: Microseconds that are acceptable.
        calibration: Of whole models of this kind, see `calibrate`: microseconds are then those of a whole forward.

    Raises:
        ValueError: The table lacks an operator or a shape; the calibration is of another model or another machine.
    """
    summed = costs.priced(lambda work: table_us(work, table))
    if calibration is None:
        return Objective("latency of layers and attentions", summed, unit="µs", budget=budget)
    calibration.require(costs, table)
    return Objective("latency", lambda plan: calibration.us(summed(plan)), unit="µs", budget=budget)
