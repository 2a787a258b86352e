"""Small spaces, and objectives that need no model: what the tests of the search share."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from hf.families import BY_NAME
from torch import nn

import shiftadd_transformers as sat
from search import Objective, Space, at_most, choose, presets

KINDS = ["dense", "shift", "adder", "bcq"]
SAMPLERS = ["nsga2", "tpe", "random"]
PRESETS = {"marian": presets.translation, "vit": presets.vit}


@cache
def layers(count: int, choices: int = 3) -> Space:
    """So many layers, each with so many choices."""
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(count)))
    return Space.of(model, [choose(KINDS[:choices], "*")])


@cache
def preset(family: str) -> Space:
    return PRESETS[family](BY_NAME[family].build())


@cache
def entangled() -> Space:
    """Mixers that leave groups of queries and keys without effect, and two limits."""
    mixers = [sat.MixerSpec(kernel_size=3), sat.MixerSpec(op="add", attention=True, kernel_size=3)]
    return Space.of(
        BY_NAME["marian"].build(),
        [
            choose(["softmax", *mixers], "encoder.*", role="attn.self"),
            choose(["dense", "shift"], "encoder.*", role="attn.q", together="all"),
            choose(["dense", "shift"], "encoder.*", role="attn.[kv]"),
        ],
        [at_most("softmax", 1), at_most("shift", 3, "*_proj")],
    )


def _weights(seed: int, count: int) -> list[float]:
    return (0.2 + torch.rand(count, generator=torch.Generator().manual_seed(seed))).tolist()


def cost(plan: sat.Plan) -> float:
    """Each operator is cheaper than the one before it, in every layer by another amount."""
    price = {"dense": 1.0, "shift": 0.5, "adder": 0.3, "bcq": 0.1}
    entries = plan.entries.values()
    return sum(w * price[e.spec.kind] for w, e in zip(_weights(1, len(entries)), entries, strict=True))


def error(plan: sat.Plan) -> float:
    """And worse."""
    loss = {"dense": 0.0, "shift": 0.25, "adder": 0.6, "bcq": 1.0}
    entries = plan.entries.values()
    return sum(w * loss[e.spec.kind] for w, e in zip(_weights(2, len(entries)), entries, strict=True))


def goals(**budgets: float) -> list[Objective]:
    """Both, with budgets by name."""
    return [Objective(f.__name__, f, budget=budgets.get(f.__name__)) for f in (cost, error)]


class Recorded:
    """An objective's function that writes down each plan that it is asked about, for all processes to see."""

    def __init__(self, path: Path, act=None) -> None:
        self.path, self.act = path, act

    def __call__(self, plan):
        with self.path.open("a") as file:
            file.write("".join(e.spec.kind[0] for e in plan.entries.values()) + "\n")
        if self.act:
            self.act(len(self.path.read_text().split()))
        return cost(plan)

    @property
    def asked(self):
        return self.path.read_text().split()


def stop_at(number, how):
    """Do this at the evaluation with that number."""
    return lambda asked: how() if asked == number else None


def told(result):
    """A search's course, comparable."""
    return [(p.number, p.candidate, dict(p.scores)) for p in result.points]
