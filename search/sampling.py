"""Which plans does a supernet train on in one step?"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal, get_args

from .decisions import Candidate
from .space import Space

Kind = Literal["sandwich", "uniform"]


@dataclass(frozen=True)
class Sampling:
    """Draws the candidates of each training step.

    Args:
        space: Where from.
        largest: The candidate that the others learn from, usually the dense one.
        smallest: The cheapest one.
        kind: "sandwich" trains the largest, the smallest and some random candidates in each step; "uniform" random
            ones alone.
        randoms: How many random candidates.
        seed: Same seed, same candidates in each step, in all processes and after a restart.

    Raises:
        ValueError: Nothing would be drawn.

    References:
        Yu and Huang, Universally slimmable networks, ICCV 2019 (sandwich rule); Guo et al., Single path one-shot, ECCV
        2020 (uniform sampling).
    """

    space: Space
    largest: Candidate
    smallest: Candidate
    kind: Kind = "sandwich"
    randoms: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"sampling must be one of {', '.join(get_args(Kind))}, not {self.kind!r}")
        if self.randoms < (0 if self.kind == "sandwich" else 1):
            raise ValueError(f"{self.kind} sampling with {self.randoms} random candidates draws none; raise randoms")

    def draw(self, step: int, part: int = 0) -> list[Candidate]:
        """The candidates of one step.

        Args:
            step: Number of the optimizer step.
            part: Number of the micro-batch in it.
        """
        rng = random.Random(f"{self.seed}/{step}/{part}")
        drawn = [self.space.sample(rng) for _ in range(self.randoms)]
        return [self.largest, self.smallest, *drawn] if self.kind == "sandwich" else drawn

    def validated(self) -> list[Candidate]:
        """The candidates whose mean loss says how far the supernet is: always the same ones."""
        rng = random.Random(f"{self.seed}/validation")
        return [self.largest, self.smallest, *(self.space.sample(rng) for _ in range(2))]
