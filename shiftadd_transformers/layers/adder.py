"""Adder layers: a negative L1 distance, made to stand where a dense layer stood.

`y = s · (a − mean_n a) + o + b` with `a = adder_linear(x, w)`. The raw distance carries an offset that is common to all
outputs of a row and as large as the row itself; centring over the outputs removes it, and with it the part that does
not depend on the weight. The scale s is a power of two per channel, the offset o a constant per channel.

`AdderSpec(norm=True)` also divides by the standard deviation σ over the outputs of the row, times one factor g per
layer: `y = s · g · (a − mean_n a) / σ + o + b`, a LayerNorm whose scale is rounded to powers of two. A centred distance
is as large as its templates are spread, times the square root of K, so every step of the templates changes what all
layers behind them receive; the normalised one keeps its magnitude, and deep networks train from scratch.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ..operators.adder import adder_linear, adder_linear_int8
from ..operators.calling import without_autocast
from ..operators.counts import OpCounts, adder_linear_counts
from ..operators.exponent_bits import power_of_two
from ..operators.ste import po2_scale_ste
from ..specs import AdderSpec
from .base import FloatWeight, PackedModule, frozen, trained, twin
from .distance import (
    adder_gains,
    expected_deviation,
    expected_distance,
    finish,
    finish_counts,
    grid_exponent,
    norm_counts,
    normalised,
    to_grid,
    wide,
)


class AdderLinear(FloatWeight):
    """The trainable adder layer.

    Attributes:
        weight: Templates `[N, K]`, in the units of the input.
        output_scale: Real `[N]`, rounded to a power of two in the forward.
        output_offset: Real `[N]`; apart from `bias`, which stays what it was in the dense layer.
        output_gain: Real `[1]`, with `norm` only. It costs one multiplication per row, as it joins the division by
            σ, and so lets a layer start at exactly the dense one's magnitude.

    References:
        Chen et al., AdderNet, CVPR 2020; Wang et al., AdderNet and its minimalist hardware design, 2021 (one grid
        for both operands). Differs: centring and a power-of-two scale, or a layer normalisation with `norm`, take the
        place of batch normalisation, whose statistics would have to follow the distances through fine-tuning.
    """

    spec: AdderSpec
    output_gain: nn.Parameter | None

    def allocate(self, device: Any, dtype: torch.dtype) -> None:
        """Room for the tensors named above."""
        _check_outputs(self.spec, self.out_features)
        self.output_scale = trained(self.out_features, dtype=dtype, device=device)
        self.output_offset = trained(self.out_features, dtype=dtype, device=device)
        gain = trained(1, dtype=dtype, device=device) if self.spec.norm else None
        self.register_parameter("output_gain", gain)

    def start_from(self, weight: Tensor) -> None:
        """Templates, scale and offset that come close to the dense layer for inputs of unit variance."""
        gain, scale = adder_gains(weight)
        templates = weight.detach() * gain
        mean = expected_distance(templates)
        offset = -scale * (mean - mean.mean() if self.spec.center else mean)
        if self.spec.norm:
            wanted = scale * expected_deviation(templates)
            scale = 2.0 ** round(math.log2(wanted))
            self.fill(output_gain=torch.full_like(weight[0, :1], wanted / scale))
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
        return _finish(self, x, distance, scale)

    def pack(self) -> PackedAdderLinear:
        """Store the templates on the int8 grid (or as they are, without one)."""
        packed = twin(self, PackedAdderLinear)
        weight, exponent = _stored(self.weight.detach(), self.spec)
        scale = po2_scale_ste(self.output_scale.detach())
        packed.fill(weight_packed=weight, weight_exponent=exponent, output_scale=scale)
        return packed.fill(**_finishing(self, "output_offset", "output_gain"))

    def dense_approximation(self) -> Tensor:
        """The dense weight that this layer would have started from."""
        return _dense_from(self.weight.detach(), po2_scale_ste(self.output_scale.detach()), self.output_gain)

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
        output_gain: Float `[1]`, with `norm` only.
    """

    spec: AdderSpec
    output_gain: nn.Parameter | None

    def allocate(self, device: Any, dtype: torch.dtype) -> None:
        """Room for the tensors named above."""
        super().allocate(device, dtype)
        _check_outputs(self.spec, self.out_features)
        stored = torch.int8 if self.spec.bits is not None else dtype
        self.weight_packed = frozen(self.out_features, self.in_features, dtype=stored, device=device)
        self.weight_exponent = frozen(dtype=torch.int8, device=device)
        self.output_scale = frozen(self.out_features, dtype=dtype, device=device)
        self.output_offset = frozen(self.out_features, dtype=dtype, device=device)
        gain = frozen(1, dtype=dtype, device=device) if self.spec.norm else None
        self.register_parameter("output_gain", gain)

    def forward(self, x: Tensor) -> Tensor:
        """`x [..., K]` to `[..., N]`."""
        rows = wide(x)
        with without_autocast(x):
            if self.spec.bits is None:
                distance = adder_linear(rows, self.weight_packed.to(rows.dtype))
            else:
                distance = adder_linear_int8(rows, self.weight_packed, self.weight_exponent)
        return _finish(self, x, distance, self.output_scale)

    def templates(self) -> Tensor:
        """The weight in the units of the input, `[N, K]`."""
        dtype = self.output_scale.dtype
        if self.spec.bits is None:
            return self.weight_packed.to(dtype)
        return self.weight_packed.to(dtype) * power_of_two(self.weight_exponent, dtype)

    def unpack(self) -> AdderLinear:
        """Float templates at the grid's points."""
        latent = twin(self, AdderLinear)
        return latent.fill(weight=self.templates(), **_finishing(self, "output_scale", "output_offset", "output_gain"))

    def dense_approximation(self) -> Tensor:
        """The dense weight that this layer would have started from."""
        return _dense_from(self.templates(), self.output_scale, self.output_gain)

    @property
    def is_linear(self) -> bool:
        """A distance is not a matrix product."""
        return False

    def counts(self, rows: int) -> OpCounts:
        """Distance, centring and scale."""
        return _counts(self, rows)


def _finish(layer: AdderLinear | PackedAdderLinear, x: Tensor, distance: Tensor, scale: Tensor) -> Tensor:
    center = layer.spec.center
    if layer.output_gain is not None:
        distance, center = normalised(distance, layer.output_gain), False
    return finish(x, distance, scale, layer.output_offset, layer.bias, center)


def _finishing(layer: AdderLinear | PackedAdderLinear, *names: str) -> dict[str, Tensor]:
    """Copies of the tensors that follow the distance, as far as the layer has them."""
    held = {name: layer._parameters[name] for name in names}
    return {name: tensor.detach().clone() for name, tensor in held.items() if tensor is not None}


def _dense_from(templates: Tensor, output_scale: Tensor, output_gain: Tensor | None) -> Tensor:
    """Undo `adder_gains`: the linear part of the layer around inputs of unit variance."""
    spread = templates.float().std(correction=0).square()
    slope = math.sqrt(2 / math.pi) / torch.sqrt(1 + spread)
    if output_gain is not None:
        slope = slope * output_gain.detach().float() / expected_deviation(templates)
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
    if layer.spec.norm:
        distance = distance + norm_counts(rows, layer.out_features)
    return distance + finish_counts(rows, layer.out_features, layer.spec.center, layer.bias is not None)
