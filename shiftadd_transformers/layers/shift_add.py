"""The shift-add cascade: a shift layer K → N, then an adder layer N → N, as one linear layer.

Starting from a dense weight W, the shift half takes OᵀW and the adder half the templates of O, with O a random
orthogonal matrix: the adder then undoes the rotation (see `adder.py` for why it acts like a matrix product), and the
cascade starts close to W. An identity in O's place would not do: an L1 distance to a sparse template sees one input.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..operators.adder import adder_linear
from ..operators.calling import without_autocast
from ..operators.counts import OpCounts, shift_add_linear_counts
from ..operators.exponent_bits import power_of_two
from ..operators.packing import pack_codes, unpack_codes
from ..operators.po2 import dequantize_codes, fit_exponent, po2_round, quantize_codes
from ..operators.shift_add import shift_add_linear
from ..operators.ste import po2_scale_ste, straight_through
from ..specs import ShiftAddSpec
from .base import FloatWeight, PackedModule, frozen, trained, twin
from .distance import adder_gains, expected_distance, finish, finish_counts, grid_exponent, to_grid, wide


class ShiftAddLinear(FloatWeight):
    """The trainable cascade.

    Attributes:
        weight: Float weight of the shift half `[N, K]`, rounded to powers of two in the forward.
        adder_weight: Templates of the adder half `[N, N]`.
        output_scale: Real `[N]`, rounded to a power of two in the forward.
        output_offset: Real `[N]`.

    References:
        You et al., ShiftAddNet, NeurIPS 2020. Differs: linear in place of 3×3 convolutions; centring and a
        power-of-two scale in place of batch normalisation.
    """

    spec: ShiftAddSpec

    def allocate(self, device: Any, dtype: torch.dtype) -> None:
        """Room for the tensors named above."""
        _check_outputs(self.out_features)
        self.adder_weight = trained(self.out_features, self.out_features, dtype=dtype, device=device)
        self.output_scale = trained(self.out_features, dtype=dtype, device=device)
        self.output_offset = trained(self.out_features, dtype=dtype, device=device)

    def start_from(self, weight: Tensor) -> None:
        """Rotate the dense weight into the shift half and back in the adder half."""
        n = weight.shape[0]
        # The adder half expects inputs of unit variance; a power of two brings them there.
        enlarge = 2.0 ** -round(math.log2(max(float(weight.detach().float().norm()) / n**0.5, 1e-8)))
        rotation = random_rotation(n).to(weight.device)
        gain, scale = adder_gains(rotation / enlarge)
        rotated, templates = cascade_weights(weight.detach(), enlarge, gain)
        mean = expected_distance(templates)
        self.fill(
            weight=rotated.to(weight.dtype),
            adder_weight=templates.to(weight.dtype),
            output_scale=torch.full_like(weight[:, 0], scale),
            output_offset=(-scale * (mean - mean.mean())).to(weight.dtype),
        )

    def forward(self, x: Tensor) -> Tensor:
        """`x [..., K]` to `[..., N]`."""
        weight = straight_through(self.weight, po2_round(self.weight.detach(), self.spec.format, None))
        exponent, rows = grid_exponent(self.adder_weight), wide(x)
        with without_autocast(x):
            hidden = to_grid(F.linear(rows, weight.to(rows.dtype)), exponent)
            templates = to_grid(self.adder_weight, exponent)
            distance = adder_linear(hidden, templates.to(hidden.dtype))
        scale = po2_scale_ste(self.output_scale)
        return finish(x, distance, scale, self.output_offset, self.bias, center=True)

    def pack(self) -> PackedShiftAddLinear:
        """Store codes for the shift half and int8 templates for the adder half."""
        weight, fmt = self.weight.detach(), self.spec.format
        shift_exponent = fit_exponent(weight, fmt, None)
        codes = quantize_codes(weight, shift_exponent, fmt, None)
        exponent = grid_exponent(self.adder_weight)
        step = power_of_two(exponent, weight.dtype)
        return twin(self, PackedShiftAddLinear).fill(
            weight_packed=pack_codes(codes, fmt.bits),
            weight_exponent=shift_exponent,
            adder_weight=(self.adder_weight.detach() / step).round().clamp(-127, 127).to(torch.int8),
            adder_exponent=exponent,
            output_scale=po2_scale_ste(self.output_scale.detach()),
            output_offset=self.output_offset.detach().clone(),
        )

    def dense_approximation(self) -> Tensor:
        """The product of the two halves' linear parts."""
        return _compose(self.weight, self.adder_weight, self.output_scale)

    @property
    def is_linear(self) -> bool:
        """The adder half is not a matrix product."""
        return False

    def counts(self, rows: int) -> OpCounts:
        """Both halves, centring and scale."""
        return _counts(self, rows)


class PackedShiftAddLinear(PackedModule):
    """The cascade as codes and int8 templates.

    Attributes:
        weight_packed: Shift codes, uint8 `[N, ceil(K·bits/8)]`.
        weight_exponent: Their power-of-two scales, int8 `[N, 1]`.
        adder_weight: Templates, int8 `[N, N]`, multiples of 2^adder_exponent.
        adder_exponent: int8 scalar.
        output_scale: Powers of two `[N]`.
        output_offset: Float `[N]`.
    """

    spec: ShiftAddSpec

    def allocate(self, device: Any, dtype: torch.dtype) -> None:
        """Room for the tensors named above."""
        super().allocate(device, dtype)
        _check_outputs(self.out_features)
        n = self.out_features
        self.weight_packed = frozen(n, -(-self.in_features * self.spec.bits // 8), dtype=torch.uint8, device=device)
        self.weight_exponent = frozen(n, 1, dtype=torch.int8, device=device)
        self.adder_weight = frozen(n, n, dtype=torch.int8, device=device)
        self.adder_exponent = frozen(dtype=torch.int8, device=device)
        self.output_scale = frozen(n, dtype=dtype, device=device)
        self.output_offset = frozen(n, dtype=dtype, device=device)

    def forward(self, x: Tensor) -> Tensor:
        """`x [..., K]` to `[..., N]`."""
        fmt = self.spec.format
        with without_autocast(x):
            distance = shift_add_linear(
                wide(x),
                self.weight_packed,
                self.weight_exponent,
                self.adder_weight,
                self.adder_exponent,
                fmt.bits,
                fmt.terms,
                fmt.zero,
            )
        return finish(x, distance, self.output_scale, self.output_offset, self.bias, center=True)

    def _floats(self) -> tuple[Tensor, Tensor]:
        dtype = self.output_scale.dtype
        codes = unpack_codes(self.weight_packed, self.spec.bits, self.in_features)
        weight = dequantize_codes(codes, self.weight_exponent, self.spec.format, None, dtype)
        return weight, self.adder_weight.to(dtype) * power_of_two(self.adder_exponent, dtype)

    def unpack(self) -> ShiftAddLinear:
        """Float tensors at the codes' values."""
        weight, templates = self._floats()
        return twin(self, ShiftAddLinear).fill(
            weight=weight,
            adder_weight=templates,
            output_scale=self.output_scale.detach().clone(),
            output_offset=self.output_offset.detach().clone(),
        )

    def dense_approximation(self) -> Tensor:
        """The product of the two halves' linear parts."""
        return _compose(*self._floats(), self.output_scale)

    @property
    def is_linear(self) -> bool:
        """The adder half is not a matrix product."""
        return False

    def counts(self, rows: int) -> OpCounts:
        """Both halves, centring and scale."""
        return _counts(self, rows)


@lru_cache(maxsize=16)
def random_rotation(n: int) -> Tensor:
    """A fixed random orthogonal `[n, n]` float32 matrix: the same for every layer of a width, on any machine."""
    with torch.inference_mode(False):  # whoever asks first must not decide how it may be used
        noise = torch.randn(n, n, generator=torch.Generator().manual_seed(n), device="cpu")
        rotation, triangle = torch.linalg.qr(noise)
        return rotation * triangle.diagonal().sign()


def cascade_weights(weight: Tensor, enlarge: float | Tensor, gain: float | Tensor) -> tuple[Tensor, Tensor]:
    """Weights of the two halves that stand for a dense weight `[N, K]`: `OᵀW · enlarge` and `O / enlarge · gain`.

    Args:
        weight: Differentiable.
        enlarge: Brings the shift half's outputs to unit variance.
        gain: Of the templates, see `adder_gains`.
    """
    rotation = random_rotation(weight.shape[0]).to(weight.device)
    return rotation.t() @ weight.float() * enlarge, rotation / enlarge * gain


def _compose(weight: Tensor, templates: Tensor, scale: Tensor) -> Tensor:
    slope = (2 / torch.pi) ** 0.5 / torch.sqrt(1 + templates.detach().float().std(correction=0).square())
    adder = templates.detach().float() * slope * scale.detach().float()[:, None]
    return (adder @ weight.detach().float()).to(weight.dtype)


def _check_outputs(out_features: int) -> None:
    if out_features < 2:
        raise ValueError("a shift-add layer centres over its outputs and needs two or more of them")


def _counts(layer: ShiftAddLinear | PackedShiftAddLinear, rows: int) -> OpCounts:
    cascade = shift_add_linear_counts(rows, layer.out_features, layer.in_features)
    return cascade + finish_counts(rows, layer.out_features, True, layer.bias is not None)
