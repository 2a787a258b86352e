"""Adder layers: a negative L1 distance, made to stand where a dense layer stood.

`y = s · (a − mean_n a) + o + b` with `a = adder_linear(x, w)`. The raw distance carries an offset that is common to all
outputs of a row and as large as the row itself; centring over the outputs removes it, and with it the part that does
not depend on the weight. The scale s is a power of two per channel, the offset o a constant per channel.

Starting from a dense weight W: for x ~ N(0, 1) the second-order part of −|x − cW| in x·W is √(2/π)/s₀ · c·x·W with
s₀² = 1 + c²σ²; the pure x² part is removed by centring, the pure W² part by the offset. What is left correlates with
the dense output by about 0.88 at cσ = 1, so a converted layer is a start and not a restart.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..operators.adder import adder_linear, adder_linear_int8
from ..operators.calling import autocast_like_linear, without_autocast
from ..operators.counts import OpCounts, adder_linear_counts
from ..operators.exponent_bits import floor_log2, power_of_two
from ..operators.ste import po2_scale_ste, straight_through
from ..specs import AdderSpec
from .base import FloatWeight, PackedModule, frozen, trained, twin


class AdderLinear(FloatWeight):
    """The trainable adder layer.

    Attributes:
        weight: Templates `[N, K]`, in the units of the input.
        output_scale: Real `[N]`, rounded to a power of two in the forward.
        output_offset: Real `[N]`; apart from `bias`, which stays what it was in the dense layer.

    References:
        Chen et al., AdderNet, CVPR 2020; Wang et al., AdderNet and its minimalist hardware design, 2021 (one grid
        for both operands). Differs: centring and a power-of-two scale take the place of batch normalisation.
    """

    spec: AdderSpec

    def allocate(self, device: Any, dtype: torch.dtype) -> None:
        """Room for the tensors named above."""
        _check_outputs(self.spec, self.out_features)
        self.output_scale = trained(self.out_features, dtype=dtype, device=device)
        self.output_offset = trained(self.out_features, dtype=dtype, device=device)

    def start_from(self, weight: Tensor) -> None:
        """Templates, scale and offset that come close to the dense layer for inputs of unit variance."""
        gain, scale = adder_gains(weight)
        templates = weight.detach() * gain
        mean = expected_distance(templates)
        offset = -scale * (mean - mean.mean() if self.spec.center else mean)
        self.fill(
            weight=templates,
            output_scale=torch.full_like(weight[:, 0], scale),
            output_offset=offset.to(weight.dtype),
        )

    def forward(self, x: Tensor) -> Tensor:
        """`x [..., K]` to `[..., N]`."""
        rows, weight = wide(x), self.weight
        with without_autocast(x):
            if self.spec.bits is not None:
                exponent = grid_exponent(weight)
                rows, weight = to_grid(rows, exponent), to_grid(weight, exponent)
            distance = adder_linear(rows, weight.to(rows.dtype))
        scale = po2_scale_ste(self.output_scale)
        return finish(x, distance, scale, self.output_offset, self.bias, self.spec.center)

    def pack(self) -> PackedAdderLinear:
        """Store the templates on the int8 grid (or as they are, without one)."""
        packed = twin(self, PackedAdderLinear)
        weight, exponent = _stored(self.weight.detach(), self.spec)
        scale = po2_scale_ste(self.output_scale.detach())
        offset = self.output_offset.detach().clone()
        return packed.fill(weight_packed=weight, weight_exponent=exponent, output_scale=scale, output_offset=offset)

    def dense_approximation(self) -> Tensor:
        """The dense weight that this layer would have started from."""
        return _dense_from(self.weight.detach(), self.output_scale.detach())

    @property
    def is_linear(self) -> bool:
        """A distance is not a matrix product."""
        return False

    def counts(self, rows: int) -> OpCounts:
        """Distance, centring and scale."""
        return _counts(self, rows)


class PackedAdderLinear(PackedModule):
    """Templates on the int8 grid that activations are put on too.

    Attributes:
        weight_packed: int8 `[N, K]` (float without a grid).
        weight_exponent: The grid is multiples of 2^weight_exponent; int8 scalar.
        output_scale: Powers of two `[N]`.
        output_offset: Float `[N]`.
    """

    spec: AdderSpec

    def allocate(self, device: Any, dtype: torch.dtype) -> None:
        """Room for the tensors named above."""
        super().allocate(device, dtype)
        _check_outputs(self.spec, self.out_features)
        stored = torch.int8 if self.spec.bits is not None else dtype
        self.weight_packed = frozen(self.out_features, self.in_features, dtype=stored, device=device)
        self.weight_exponent = frozen(dtype=torch.int8, device=device)
        self.output_scale = frozen(self.out_features, dtype=dtype, device=device)
        self.output_offset = frozen(self.out_features, dtype=dtype, device=device)

    def forward(self, x: Tensor) -> Tensor:
        """`x [..., K]` to `[..., N]`."""
        rows = wide(x)
        with without_autocast(x):
            if self.spec.bits is None:
                distance = adder_linear(rows, self.weight_packed.to(rows.dtype))
            else:
                distance = adder_linear_int8(rows, self.weight_packed, self.weight_exponent)
        return finish(x, distance, self.output_scale, self.output_offset, self.bias, self.spec.center)

    def templates(self) -> Tensor:
        """The weight in the units of the input, `[N, K]`."""
        dtype = self.output_scale.dtype
        if self.spec.bits is None:
            return self.weight_packed.to(dtype)
        return self.weight_packed.to(dtype) * power_of_two(self.weight_exponent, dtype)

    def unpack(self) -> AdderLinear:
        """Float templates at the grid's points."""
        latent = twin(self, AdderLinear)
        return latent.fill(
            weight=self.templates(),
            output_scale=self.output_scale.detach().clone(),
            output_offset=self.output_offset.detach().clone(),
        )

    def dense_approximation(self) -> Tensor:
        """The dense weight that this layer would have started from."""
        return _dense_from(self.templates(), self.output_scale)

    @property
    def is_linear(self) -> bool:
        """A distance is not a matrix product."""
        return False

    def counts(self, rows: int) -> OpCounts:
        """Distance, centring and scale."""
        return _counts(self, rows)


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
    step = power_of_two(exponent, x.dtype)
    return straight_through(x, (x.detach() / step).round().clamp(-127, 127) * step)


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


def _dense_from(templates: Tensor, output_scale: Tensor) -> Tensor:
    """Undo `adder_gains`: the linear part of the layer around inputs of unit variance."""
    spread = templates.float().std(correction=0).square()
    slope = math.sqrt(2 / math.pi) / torch.sqrt(1 + spread)
    return (templates * slope * output_scale[:, None]).to(templates.dtype)


def _stored(weight: Tensor, spec: AdderSpec) -> tuple[Tensor, Tensor]:
    if spec.bits is None:
        return weight.clone(), torch.zeros((), dtype=torch.int8, device=weight.device)
    exponent = grid_exponent(weight)
    return (weight / power_of_two(exponent, weight.dtype)).round().clamp(-127, 127).to(torch.int8), exponent


def _check_outputs(spec: AdderSpec, out_features: int) -> None:
    if spec.center and out_features < 2:
        raise ValueError("centring needs two or more outputs; use AdderSpec(center=False) for a single one")


def _counts(layer: AdderLinear | PackedAdderLinear, rows: int) -> OpCounts:
    distance = adder_linear_counts(rows, layer.out_features, layer.in_features)
    return distance + finish_counts(rows, layer.out_features, layer.spec.center, layer.bias is not None)
