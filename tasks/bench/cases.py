"""What is measured? Kernels at a shape, together with what they are compared with.

Kernels that compete for the same layer share a contest, so that they are timed against one another as well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch

from shiftadd_transformers import operators
from shiftadd_transformers.operators import Po2Format, pack_planes, packed_width, signed_po2_terms

from .baselines import L1, LINEAR, MATADD, Baseline
from .shape import Shape

Arguments = tuple[Any, ...]
Weights = Literal["dram", "cache"]
PLACES: dict[str, str] = {"dram": "weights from DRAM", "cache": "weights in the cache"}

_SHIFT = Po2Format(4)


@dataclass(frozen=True)
class Subject:
    """One kernel with one kind of weight.

    Args:
        name: what tables call it.
        kernel: the operator that it serves, by its name in ``shiftadd::``.
        arguments: makes the operator's arguments.
        weight: the position of the packed weight among them.
        tolerance: how far the result may be from the operator's PyTorch body, as a part of the largest result; 0
            where the definition is exact and every bit must agree.
    """

    name: str
    kernel: str
    arguments: Callable[[Shape], Arguments]
    weight: int = 1
    tolerance: float = 0.0

    @property
    def operator(self) -> Callable[..., torch.Tensor]:
        """The operator as a user calls it."""
        return getattr(operators, self.kernel)


@dataclass(frozen=True)
class Contest:
    """Kernels and baselines that compute the same kind of product at one shape.

    Args:
        shape: the shape.
        weights: where weights are when a call begins, in memory or in the cache.
        subjects: the kernels.
        baselines: the others.
    """

    shape: Shape
    weights: Weights
    subjects: tuple[Subject, ...]
    baselines: tuple[Baseline, ...]

    def __str__(self) -> str:
        return f"{self.shape}, {PLACES[self.weights]}"


def shift_arguments(shape: Shape) -> Arguments:
    """A layer with random 4-bit codes: every byte holds two valid ones."""
    packed = torch.randint(0, 256, (shape.n, packed_width(shape.k, _SHIFT.bits)), dtype=torch.uint8)
    exponent = torch.randint(-8, 1, (shape.n, 1), dtype=torch.int8)
    return _rows(shape), packed, exponent, None, _SHIFT.bits, _SHIFT.terms, _SHIFT.zero, 0, 8


def bcq_arguments(planes: int) -> Callable[[Shape], Arguments]:
    """A layer with random sign planes and one scale per column and plane."""

    def arguments(shape: Shape) -> Arguments:
        signs = torch.randint(0, 256, (planes, shape.n, packed_width(shape.k, 1)), dtype=torch.uint8)
        scales = signed_po2_terms(torch.rand(planes, 1, shape.k) + 0.5, terms=3)
        return _rows(shape), signs, scales, None, shape.n, 1, 8

    return arguments


def adder_arguments(shape: Shape) -> Arguments:
    """Templates of the same kind as the inputs."""
    return _rows(shape), torch.randn(shape.n, shape.k)


def adder_int8_arguments(shape: Shape) -> Arguments:
    """Templates over the whole grid."""
    templates = torch.randint(-127, 128, (shape.n, shape.k), dtype=torch.int8)
    return _rows(shape), templates, torch.tensor(-5, dtype=torch.int8)


def matadd_arguments(shape: Shape) -> Arguments:
    """Signs on the left, one matrix per head."""
    signs = pack_planes(torch.randn(shape.batch, shape.m, shape.k))
    return signs, torch.randn(shape.batch, shape.k, shape.n)


def matadd_right_arguments(shape: Shape) -> Arguments:
    """Signs on the right, one matrix per head."""
    signs = pack_planes(torch.randn(shape.batch, shape.n, shape.k))
    return _rows(shape), signs


def _rows(shape: Shape) -> torch.Tensor:
    leading = () if shape.batch == 1 else (shape.batch,)
    return torch.randn(*leading, shape.m, shape.k)


SHIFT = Subject("shift 4-bit", "shift_linear", shift_arguments)
BCQ3 = Subject("bcq 3-bit column", "bcq_linear", bcq_arguments(3))
BCQ2 = Subject("bcq 2-bit column", "bcq_linear", bcq_arguments(2))
ADDER8 = Subject("adder int8", "adder_linear_int8", adder_int8_arguments)
# A sum of K terms, taken in another order than the body takes it.
ADDER = Subject("adder float32", "adder_linear", adder_arguments, tolerance=1e-5)
MATADD_LEFT = Subject("matadd, signs · values", "matadd", matadd_arguments, weight=0, tolerance=1e-5)
MATADD_RIGHT = Subject("matadd, values · signs", "matadd_right", matadd_right_arguments, tolerance=1e-5)

CONTESTS = (
    Contest(Shape(1, 4096, 4096), "dram", (SHIFT, BCQ3, BCQ2), LINEAR),
    Contest(Shape(1, 4096, 4096), "cache", (SHIFT, BCQ3, BCQ2), LINEAR),
    Contest(Shape(16, 4096, 4096), "dram", (SHIFT,), LINEAR),
    Contest(Shape(512, 768, 3072), "cache", (SHIFT,), LINEAR),
    Contest(Shape(512, 768, 3072), "cache", (ADDER8, ADDER), L1),
    # Attention with binary scores or keys: 12 heads of 8 images, 196 tokens, 64 wide.
    Contest(Shape(196, 196, 64, batch=96), "cache", (MATADD_LEFT,), MATADD),
    Contest(Shape(196, 64, 196, batch=96), "cache", (MATADD_RIGHT,), MATADD),
)
"""What `shiftadd bench` measures."""
