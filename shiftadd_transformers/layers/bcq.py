"""Binary-coding layers: the weight is a sum of ±1 planes with power-of-two scales."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..operators.bcq import bcq_codes, bcq_dequantize, bcq_fit, bcq_groups, bcq_linear
from ..operators.counts import OpCounts, bcq_linear_counts, bcq_lookup_counts
from ..operators.packing import pack_planes, unpack_planes
from ..operators.po2 import from_po2_terms, signed_po2_terms
from ..operators.ste import straight_through
from ..specs import BcqSpec
from .base import FloatWeight, OperatorModule, PackedModule, frozen, trained, twin


def _groups(layer: OperatorModule, spec: BcqSpec) -> tuple[int, int]:
    return bcq_groups(spec.grouping, spec.group_size, layer.out_features, layer.in_features)


def _scale_shape(layer: OperatorModule, spec: BcqSpec) -> tuple[int, int, int]:
    row_group, col_group = _groups(layer, spec)
    return spec.planes, -(-layer.out_features // row_group), -(-layer.in_features // col_group)


def _counts(layer: OperatorModule, spec: BcqSpec, rows: int) -> OpCounts:
    n, k, bias = layer.out_features, layer.in_features, layer.bias is not None
    if spec.activation_bits is not None:
        return bcq_lookup_counts(rows, n, k, bias)
    return bcq_linear_counts(rows, n, k, spec.planes, spec.scale_terms, *_groups(layer, spec), bias)


class BcqLinear(FloatWeight):
    """A float weight that the forward rounds to the nearest sum of ± scales; the scales train too.

    Attributes:
        weight: Float `[N, K]`.
        alpha: Real scales `[P, NG, KG]`, rounded to sums of powers of two in the forward.

    References:
        You et al., ShiftAddLLM, NeurIPS 2024 (§3); Xu et al., Alternating multi-bit quantization, ICLR 2018.
    """

    spec: BcqSpec

    def allocate(self, device: Any, dtype: torch.dtype) -> None:
        """Room for the tensors named above."""
        self.alpha = trained(*_scale_shape(self, self.spec), dtype=dtype, device=device)

    def start_from(self, weight: Tensor) -> None:
        """Keep the dense weight and fit the scales to it."""
        spec = self.spec
        _, alpha = bcq_fit(weight.detach(), spec.planes, *_groups(self, spec), spec.scale_terms)
        self.fill(weight=weight, alpha=alpha.to(weight.dtype))

    def rounded_alpha(self) -> Tensor:
        """The scales as sums of powers of two, with the gradient of the real ones."""
        terms = signed_po2_terms(self.alpha.detach(), self.spec.scale_terms)
        return straight_through(self.alpha, from_po2_terms(terms, self.alpha.dtype))

    def rounded_weight(self) -> Tensor:
        """The nearest representable weight; its gradient reaches `weight` and `alpha`."""
        alpha, groups = self.rounded_alpha(), _groups(self, self.spec)
        signs = bcq_codes(self.weight.detach(), alpha.detach(), *groups)
        # weight − weight is exactly zero: the value is the decoded one, the gradient reaches both parameters.
        return bcq_dequantize(signs, alpha, *groups) + (self.weight - self.weight.detach())

    def forward(self, x: Tensor) -> Tensor:
        """`x [..., K]` to `[..., N]`."""
        y = F.linear(x, self.effective_weight().to(x.dtype), self.bias)
        if self.spec.activation_bits is None:
            return y
        with torch.no_grad():
            exact = self.pack()(x)
        return straight_through(y, exact)

    def pack(self) -> PackedBcqLinear:
        """Store the planes as bits and the scales as exponents."""
        alpha = self.rounded_alpha().detach()
        signs = bcq_codes(self.weight.detach(), alpha, *_groups(self, self.spec))
        codes = signed_po2_terms(alpha, self.spec.scale_terms)
        return twin(self, PackedBcqLinear).fill(weight_planes=pack_planes(signs), weight_scale=codes)

    def dense_approximation(self) -> Tensor:
        """The decoded weight: the layer is linear."""
        return self.effective_weight().detach()

    def counts(self, rows: int) -> OpCounts:
        """See `bcq_linear_counts`, and `bcq_lookup_counts` for 8-bit tables."""
        return _counts(self, self.spec, rows)


class PackedBcqLinear(PackedModule):
    """Bit planes and exponents.

    Attributes:
        weight_planes: uint8 `[P, N, ceil(K/8)]`, a set bit means +1.
        weight_scale: Signed power-of-two terms, int8 `[P, NG, KG, terms]`.
    """

    spec: BcqSpec

    def allocate(self, device: Any, dtype: torch.dtype) -> None:
        """Room for the tensors named above."""
        super().allocate(device, dtype)
        width = -(-self.in_features // 8)
        self.weight_planes = frozen(self.spec.planes, self.out_features, width, dtype=torch.uint8, device=device)
        scales = (*_scale_shape(self, self.spec), self.spec.scale_terms)
        self.weight_scale = frozen(*scales, dtype=torch.int8, device=device)

    def forward(self, x: Tensor) -> Tensor:
        """`x [..., K]` to `[..., N]`."""
        groups, activation_bits = _groups(self, self.spec), self.spec.activation_bits or 0
        return bcq_linear(x, self.weight_planes, self.weight_scale, self.bias, *groups, activation_bits)

    def _alpha(self) -> Tensor:
        return from_po2_terms(self.weight_scale, self.dtype)

    def dense_approximation(self) -> Tensor:
        """The decoded weight, exact."""
        signs = unpack_planes(self.weight_planes, self.in_features)
        return bcq_dequantize(signs, self._alpha(), *_groups(self, self.spec))

    def unpack(self) -> BcqLinear:
        """A float weight at the decoded values, with these scales."""
        return twin(self, BcqLinear).fill(weight=self.dense_approximation(), alpha=self._alpha())

    def counts(self, rows: int) -> OpCounts:
        """See `bcq_linear_counts`, and `bcq_lookup_counts` for 8-bit tables."""
        return _counts(self, self.spec, rows)
