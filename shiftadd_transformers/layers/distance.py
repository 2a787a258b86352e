"""What becomes of a raw L1 distance, and what is known of it before anything is trained?

Everything here serves any layer that ends in a distance: the grid that both operands share, centring, normalisation
and scale with their costs, and the distance's mean and deviation for inputs x ~ N(0, 1).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..operators.calling import autocast_like_linear
from ..operators.counts import OpCounts
from ..operators.exponent_bits import floor_log2, power_of_two
from ..operators.grid import on_grid
from ..operators.ste import straight_through

SMALLEST_VARIANCE = 1e-5
"""Added to a variance before its root is taken, as in a LayerNorm."""


def wide(x: Tensor) -> Tensor:
    """`x` in at least float32: a distance is far larger than its centred part, which bfloat16 would round away."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def finish(x: Tensor, distance: Tensor, scale: Tensor, offset: Tensor, bias: Tensor | None, center: bool) -> Tensor:
    """Centre over the outputs, scale by a power of two, add offset and bias; the dtype that a dense layer gives."""
    if center:
        distance = distance - distance.mean(dim=-1, keepdim=True)
    y = distance * scale.to(distance.dtype) + offset.to(distance.dtype)
    y = y if bias is None else y + bias.to(y.dtype)
    return y.to(autocast_like_linear(x[..., :0]).dtype)


def normalised(distance: Tensor, gain: Tensor) -> Tensor:
    """`g · (a − mean a) / σ` over the outputs, `[..., N]`; without a variance, zero.

    >>> normalised(torch.tensor([[-4.0, -6.0]]), torch.tensor([3.0])).round()
    tensor([[ 3., -3.]])
    """
    centred = distance - distance.mean(dim=-1, keepdim=True)
    inverse = torch.rsqrt(centred.square().mean(dim=-1, keepdim=True) + SMALLEST_VARIANCE)
    return centred * (inverse * gain.to(inverse.dtype))


def norm_counts(rows: int, n: int) -> OpCounts:
    """What dividing by σ adds to centring: N squares and their mean, 1/√ from a table, the gain, N products."""
    return OpCounts(multiply=2 * n + 3, add=n + 1, lookup=1) * rows


def finish_counts(rows: int, n: int, center: bool, bias: bool) -> OpCounts:
    """Centring sums N values, divides once by N and subtracts N times; the scale is a shift."""
    centring = OpCounts(add=2 * n, multiply=1) if center else OpCounts()
    return (centring + OpCounts(shift=n, add=2 * n if bias else n)) * rows


def grid_exponent(weight: Tensor) -> Tensor:
    """The finest power of two whose int8 grid holds the whole weight; int8 scalar."""
    step = (weight.detach().abs().amax().float() / 127).clamp_min(2.0**-100)
    below = floor_log2(step)
    return (below + (power_of_two(below, torch.float32) < step)).to(torch.int8)


def to_grid(x: Tensor, exponent: Tensor) -> Tensor:
    """Round half to even onto multiples of 2^exponent within ±127; the gradient passes unchanged.

    >>> to_grid(torch.tensor([0.3, 99.0]), torch.tensor(-2, dtype=torch.int8))
    tensor([ 0.2500, 31.7500])
    """
    return straight_through(x, on_grid(x.detach(), exponent))


def adder_gains(weight: Tensor) -> tuple[float, float]:
    """How much to enlarge a dense weight into templates, and the power-of-two output scale that undoes it.

    The scale 2^j is chosen so that templates get a standard deviation near 1, that of a normalised input; the
    enlargement then follows exactly from the module's formula.
    """
    deviation = float(weight.detach().float().std(correction=0).clamp_min(1e-8))
    j = math.ceil(math.log2(deviation * math.sqrt(math.pi)) - 0.25)
    ratio = 2.0 ** (2 * j) * (2 / math.pi) / deviation**2 - 1
    return 1 / (deviation * math.sqrt(ratio)), 2.0**j


def expected_distance(templates: Tensor) -> Tensor:
    """`E[−Σ|x − w|]` over x ~ N(0, 1), per output `[N]`."""
    w = templates.detach().float()
    density = torch.exp(-0.5 * w * w) / math.sqrt(2 * math.pi)
    return -(2 * density + w * torch.erf(w / math.sqrt(2))).sum(dim=1)


def expected_deviation(templates: Tensor) -> float:
    """σ of a row of distances for x ~ N(0, 1), as if the templates `[N, K]` were drawn from a normal distribution.

    With τ the templates' deviation, two distances of one input differ as |u| and |v| do, u and v normal with variance
    1 + τ² and correlation ρ = 1 / (1 + τ²): σ² = K·(E u² − E|u||v|) = K·(1 + τ²)·(1 − (2/π)(√(1 − ρ²) + ρ·asin ρ)).

    >>> expected_deviation(torch.zeros(2, 3)) < 1e-2
    True
    """
    n, k = templates.shape
    spread = 1 + float(templates.detach().float().std(correction=0)) ** 2
    rho = 1 / spread
    alike = 2 / math.pi * (math.sqrt(1 - rho * rho) + rho * math.asin(rho))
    return math.sqrt(k * spread * (1 - alike) * (n - 1) / n + SMALLEST_VARIANCE)
