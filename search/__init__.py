"""Search over plans: which operator where, and for what cost.

>>> import torch
>>> from torch import nn
>>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8))
>>> space = Space.of(model, [choose(["dense", "shift"], "*")])
>>> costs = measure_costs(space, model, {"input": torch.zeros(1, 8)})
>>> kept = Objective("dense layers", lambda plan: 2 - len(plan.converted), "maximise")
>>> result = evolve(space, [kept, energy(costs)], evaluations=4)
>>> [point.candidate for point in result.front.points]
[(0, 0), (0, 1), (1, 1)]
"""

from __future__ import annotations

from . import presets
from .costs import CostTable, WholeCosts, measure_costs
from .decisions import (
    AtMost,
    Candidate,
    Decision,
    Same,
    SizeDecision,
    SpecDecision,
    Vocabulary,
    at_most,
    choose,
    same,
)
from .engine import Result, evolve, measure
from .objectives import Objective, energy, latency, multiplications, operations, stored_bytes
from .pareto import Front, Point, hypervolume
from .sizes import Sizes, depth, heads, widths
from .space import Space
from .work import Work

__all__ = [
    "AtMost",
    "Candidate",
    "CostTable",
    "Decision",
    "Front",
    "Objective",
    "Point",
    "Result",
    "Same",
    "SizeDecision",
    "Sizes",
    "Space",
    "SpecDecision",
    "Vocabulary",
    "WholeCosts",
    "Work",
    "at_most",
    "choose",
    "depth",
    "energy",
    "evolve",
    "heads",
    "hypervolume",
    "latency",
    "measure",
    "measure_costs",
    "multiplications",
    "operations",
    "presets",
    "same",
    "stored_bytes",
    "widths",
]
