"""From `[search]` to a space, and to the objectives that plans are compared by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from search import (
    AtMost,
    Objective,
    Space,
    energy,
    latency,
    measure_costs,
    multiplications,
    operations,
    presets,
    stored_bytes,
)
from search.calibration import Calibration, calibration_file
from search.costs import Costs
from search.supernet import Supernet
from shiftadd_transformers.cost.latency import LatencyTable
from tasks.errors import TaskError
from tasks.search.config import SearchConfig
from tasks.search.subject import Subject

_COSTS: dict[str, Callable[..., Objective]] = {
    "energy": energy,
    "multiplications": multiplications,
    "operations": operations,
    "stored bytes": stored_bytes,
}


def make_space(config: SearchConfig, model: Any) -> Space:
    """What can become of the model.

    Raises:
        TaskError: a vocabulary or limit that does not fit it.
    """
    try:
        if config.preset:
            options = {"sizes": True} if config.sizes else {}
            space: Space = getattr(presets, config.preset)(model, **options)
            return replace(space, limits=_limits(config))
        return Space.of(model, config.choices, _limits(config))
    except (ValueError, TypeError, KeyError) as error:
        raise TaskError(f"[search]: {error}") from error


def make_costs(config: SearchConfig, space: Space, subject: Subject) -> tuple[Costs, list[Objective]]:
    """What plans cost, measured once, and the objectives made of it.

    Raises:
        TaskError: a choice cannot be converted, or is not in the latency table.
    """
    try:
        costs = measure_costs(space, subject.model, subject.inputs)
        return costs, [_cost(name, config, costs) for name in config.costs]
    except (ValueError, OSError) as error:
        raise TaskError(f"[search]: {error}") from error


def make_quality(config: SearchConfig, subject: Subject, supernet: Supernet) -> Objective:
    """How good plans are, judged in the supernet.

    Raises:
        TaskError: the task has no such quality.
    """
    if config.quality not in subject.qualities:
        raise TaskError(
            f"search.quality is {config.quality!r}, which this task does not have: {', '.join(subject.qualities)}"
        )
    quality = subject.qualities[config.quality]
    return supernet.objective(quality.name, quality.score, quality.direction, unit=quality.unit)


def _limits(config: SearchConfig) -> tuple[AtMost, ...]:
    return tuple(map(AtMost.from_dict, config.limits))


def _cost(name: str, config: SearchConfig, costs: Costs) -> Objective:
    budget = config.budgets.get(name)
    if name == "latency":
        return _latency(config, costs, budget)
    return _COSTS[name](costs, budget)


def _latency(config: SearchConfig, costs: Costs, budget: float | None) -> Objective:
    """Of a whole forward where a calibration lies beside the table; else of layers and attentions."""
    table = Path(config.latency_table or "")
    beside = calibration_file(table)
    calibration = Calibration.load(beside) if beside.is_file() else None
    return latency(costs, LatencyTable.load(table), budget, calibration=calibration)
