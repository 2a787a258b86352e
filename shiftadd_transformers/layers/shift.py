"""Shift layers: three ways to train power-of-two weights, one packed form.

All of them compute `y = x ŵᵀ + b` with ŵ = ±(sum of powers of two) · 2^scale; they differ in what the optimizer sees.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..operators.counts import OpCounts, shift_linear_counts
from ..operators.exponent_bits import power_of_two
from ..operators.packing import pack_codes, unpack_codes
from ..operators.po2 import dequantize_codes, fit_exponent, po2_round, quantize_codes
from ..operators.shift import shift_linear
from ..operators.ste import (
    denseshift_tensors_from,
    denseshift_weight,
    ps_tensors_from,
    ps_weight,
    straight_through,
)
from ..specs import ShiftSpec
from .base import FloatWeight, LatentModule, PackedModule, WeightView, frozen, trained, twin


def _groups(spec: ShiftSpec, in_features: int) -> int:
    return 1 if spec.group_size is None else -(-in_features // spec.group_size)


def _counts(layer: LatentModule | PackedModule, spec: ShiftSpec, rows: int) -> OpCounts:
    groups = _groups(spec, layer.in_features)
    return shift_linear_counts(rows, layer.out_features, layer.in_features, spec.terms, layer.bias is not None, groups)


class _LatentShift(LatentModule):
    """What the three parametrisations share: forward, packing, cost."""

    spec: ShiftSpec

    def codes(self) -> tuple[Tensor, Tensor]:
        """Codes `[N, K]` uint8 and scale exponents `[N, G]` int8 of the present weight."""
        weight, fmt, group = self.effective_weight().detach(), self.spec.format, self.spec.group_size
        exponent = fit_exponent(weight, fmt, group)
        return quantize_codes(weight, exponent, fmt, group), exponent

    def forward(self, x: Tensor) -> Tensor:
        """`x [..., K]` to `[..., N]`."""
        y = F.linear(x, self.effective_weight().to(x.dtype), self.bias)
        if self.spec.activation_bits is None:
            return y
        with torch.no_grad():
            exact = self.pack()(x)
        return straight_through(y, exact)

    def pack(self) -> PackedShiftLinear:
        """Store the weight as codes."""
        codes, exponent = self.codes()
        packed = twin(self, PackedShiftLinear)
        return packed.fill(weight_packed=pack_codes(codes, self.spec.bits), weight_exponent=exponent)

    def dense_approximation(self) -> Tensor:
        """ŵ itself: a shift layer is linear."""
        return self.effective_weight().detach()

    def counts(self, rows: int) -> OpCounts:
        """See `shift_linear_counts`."""
        return _counts(self, self.spec, rows)


class ShiftLinear(_LatentShift, FloatWeight):
    """A float weight that the forward rounds to powers of two in the log domain (DeepShift-Q).

    The gradient passes the rounding unchanged. The power-of-two scale of each group is fitted anew in each forward,
    so weights above 1 are representable and nothing needs clamping.

    References:
        Elhoushi et al., DeepShift, 2021 (Q). Differs: a scale per channel or group, and by default a zero level in
        place of the smallest exponent.
    """

    def start_from(self, weight: Tensor) -> None:
        """Keep the dense weight as it is."""
        self.fill(weight=weight)

    def rounded_weight(self) -> Tensor:
        """The rounded weight, with the gradient of the float one."""
        return straight_through(self.weight, po2_round(self.weight.detach(), self.spec.format, self.spec.group_size))


class ShiftPSLinear(_LatentShift, WeightView):
    """Shift and sign are trained in the place of the weight (DeepShift-PS).

    Attributes:
        shift: Real exponents `[N, K]`, rounded and clamped to the format's range in the forward.
        sign: Real `[N, K]`, rounded to −1, 0 or 1 in the forward.
        weight_exponent: Power-of-two scale `[N, G]`, fitted once from the weight that training starts from.

    References:
        Elhoushi et al., DeepShift, 2021 (PS). Differs: a scale per channel or group.
    """

    weight_exponent: Tensor

    def allocate(self, device: Any, dtype: torch.dtype) -> None:
        """Room for the tensors named above."""
        self.shift = trained(self.out_features, self.in_features, dtype=dtype, device=device)
        self.sign = trained(self.out_features, self.in_features, dtype=dtype, device=device)
        _register_exponent(self, device)

    def start_from(self, weight: Tensor) -> None:
        """Shift and sign whose forward is the rounded dense weight."""
        exponent, codes = _fit(self, weight)
        shift, sign = ps_tensors_from(codes, self.spec.bits)
        self.fill(shift=shift.to(weight.dtype), sign=sign.to(weight.dtype), weight_exponent=exponent)

    def rounded_weight(self) -> Tensor:
        """`2^scale · 2^round(shift) · round(sign)`."""
        top = len(self.spec.format.magnitudes) - 2  # the exponent of the largest magnitude
        return _scaled(ps_weight(self.shift, self.sign, self.spec.bits), self.weight_exponent + top, self.spec)

    def codes(self) -> tuple[Tensor, Tensor]:
        """With the scale that training kept fixed."""
        return _codes_at(self.effective_weight(), self.weight_exponent, self.spec), self.weight_exponent


class DenseShiftLinear(_LatentShift, WeightView):
    """A sign tensor and binary shift tensors; no weight is ever zero (DenseShift).

    The tensors start with a standard deviation of 1e-3 around their thresholds, whether the layer that they start from
    is random or pretrained, so that small gradients can move a weight. How fast they do is the learning rate's to say:
    see `make_optimizer(reference_lr_factor=...)`.

    Attributes:
        sign: Real `[N, K]`; the weight takes its sign.
        shift: Real `[S, N, K]`, S the largest exponent; each one's sign switches one doubling on.
        weight_exponent: Power-of-two scale `[N, G]`, fitted once from the weight that training starts from.

    References:
        Li et al., DenseShift, ICCV 2023. Differs: a scale per channel or group instead of a following batch
        normalisation; any number of bits.
    """

    weight_exponent: Tensor

    def allocate(self, device: Any, dtype: torch.dtype) -> None:
        """Room for the tensors named above."""
        top = len(self.spec.format.magnitudes) - 1
        self.sign = trained(self.out_features, self.in_features, dtype=dtype, device=device)
        self.shift = trained(top, self.out_features, self.in_features, dtype=dtype, device=device)
        _register_exponent(self, device)

    def start_from(self, weight: Tensor) -> None:
        """Low-variance reference tensors whose forward is the rounded dense weight."""
        exponent, codes = _fit(self, weight)
        levels = dequantize_codes(
            codes, torch.zeros_like(exponent), self.spec.format, self.spec.group_size, torch.float32
        )
        sign, shift = denseshift_tensors_from(levels.abs().log2(), levels.sign(), self.shift.shape[0])
        self.fill(sign=sign.to(weight.dtype), shift=shift.to(weight.dtype), weight_exponent=exponent)

    def rounded_weight(self) -> Tensor:
        """`2^scale · sgn(sign) · 2^S`, with the gradient of `sgn(sign) · √(S+1)`."""
        return _scaled(denseshift_weight(self.sign, self.shift), self.weight_exponent, self.spec)

    def codes(self) -> tuple[Tensor, Tensor]:
        """With the scale that training kept fixed."""
        return _codes_at(self.effective_weight(), self.weight_exponent, self.spec), self.weight_exponent


class PackedShiftLinear(PackedModule):
    """Power-of-two weights as codes.

    Attributes:
        weight_packed: Codes, uint8 `[N, ceil(K·bits/8)]`.
        weight_exponent: Power-of-two scales, int8 `[N, G]`.
    """

    spec: ShiftSpec

    def allocate(self, device: Any, dtype: torch.dtype) -> None:
        """Room for the tensors named above."""
        super().allocate(device, dtype)
        width = -(-self.in_features * self.spec.bits // 8)
        self.weight_packed = frozen(self.out_features, width, dtype=torch.uint8, device=device)
        groups = _groups(self.spec, self.in_features)
        self.weight_exponent = frozen(self.out_features, groups, dtype=torch.int8, device=device)

    def forward(self, x: Tensor) -> Tensor:
        """`x [..., K]` to `[..., N]`."""
        spec, fmt = self.spec, self.spec.format
        return shift_linear(
            x,
            self.weight_packed,
            self.weight_exponent,
            self.bias,
            fmt.bits,
            fmt.terms,
            fmt.zero,
            spec.group_size or 0,
            spec.activation_bits or 0,
        )

    def dense_approximation(self) -> Tensor:
        """The decoded weight, exact."""
        codes = unpack_codes(self.weight_packed, self.spec.bits, self.in_features)
        return dequantize_codes(codes, self.weight_exponent, self.spec.format, self.spec.group_size, self.dtype)

    def unpack(self) -> LatentModule:
        """The parametrisation that the spec names, starting from these codes."""
        latent = twin(self, LATENT_SHIFT[self.spec.parametrization])
        latent.start_from(self.dense_approximation())
        return latent

    def counts(self, rows: int) -> OpCounts:
        """See `shift_linear_counts`."""
        return _counts(self, self.spec, rows)


LATENT_SHIFT: dict[str, type[LatentModule]] = {
    "q": ShiftLinear,
    "ps": ShiftPSLinear,
    "denseshift": DenseShiftLinear,
}


def _register_exponent(layer: _LatentShift, device: Any) -> None:
    groups = _groups(layer.spec, layer.in_features)
    exponent = torch.zeros(layer.out_features, groups, dtype=torch.int8, device=device)
    layer.register_buffer("weight_exponent", exponent)


def _fit(layer: _LatentShift, weight: Tensor) -> tuple[Tensor, Tensor]:
    exponent = fit_exponent(weight.detach(), layer.spec.format, layer.spec.group_size)
    return exponent, _codes_at(weight, exponent, layer.spec)


def _codes_at(weight: Tensor, exponent: Tensor, spec: ShiftSpec) -> Tensor:
    return quantize_codes(weight.detach(), exponent, spec.format, spec.group_size)


def _scaled(weight: Tensor, exponent: Tensor, spec: ShiftSpec) -> Tensor:
    """Multiply by each group's power of two, which is exact."""
    scale = power_of_two(exponent, weight.dtype)
    if spec.group_size is not None:
        scale = scale.repeat_interleave(spec.group_size, dim=1)[:, : weight.shape[1]]
    return weight * scale
