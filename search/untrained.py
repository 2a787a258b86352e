"""What is a plan worth before any training? The zero-training proxy: a trained model, converted and scored."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from shiftadd_transformers.hf import convert_
from shiftadd_transformers.plan import Plan

from .objectives import Direction, Objective


def untrained(
    model: nn.Module,
    name: str,
    score: Callable[[Any], float],
    direction: Direction = "minimise",
    *,
    unit: str = "",
    budget: float | None = None,
) -> Objective:
    """Score plans by the trained model that they are for, converted without fine-tuning.

    It takes no supernet, and ranks what stays close to the trained function above what has to be learned anew: right
    for numbers of bits and shift formats, unfair to token mixers.

    Args:
        model: Dense and trained; not changed.
        name: Of the objective.
        score: Model to number; it gets a converted model in evaluation mode.
        direction: Whether less or more is better.
        unit: For people.
        budget: The worst value that is acceptable.

    >>> from search import Space, choose
    >>> model = nn.Sequential(nn.Linear(8, 8))
    >>> x = torch.randn(16, 8)
    >>> error = untrained(model, "error", lambda m: float((m(x) - model(x)).square().mean()))
    >>> plans = map(Space.of(model, [choose(["dense", "shift"], "*")]).to_plan, [(0,), (1,)])
    >>> tuple(error.measure(plan) > 0 for plan in plans)
    (False, True)
    """

    @torch.no_grad()
    def measure(plan: Plan) -> float:
        return score(convert_(copy.deepcopy(model), plan).eval())

    return Objective(name, measure, direction, unit, budget)
