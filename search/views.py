"""What does one operator make of a tensor that it shares with others?

A view is a latent layer without a matrix: in each forward it is lent one, derived from the shared tensor or a leading
part of it, beside as much of the small tensors that are its own (bias, scales, offsets, router: what normalises this
operator's outputs). What it is lent is also what an extracted model gets, so that both compute the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from shiftadd_transformers.layers import (
    AdderLinear,
    MixtureLinear,
    ShiftAddLinear,
    dense_weight,
    latent_type,
)
from shiftadd_transformers.layers.base import make_dense
from shiftadd_transformers.layers.shift_add import cascade_weights
from shiftadd_transformers.specs import ShiftSpec, Spec

from .leading import empty_layer, leading_part
from .sharing import LaplaceMap


class Derivation(nn.Module):
    """Which matrices an operator takes from the shared tensor, and how. By default the tensor as it is.

    Attributes:
        names: Of the parameters that are lent.
    """

    names: tuple[str, ...] = ("weight",)

    def forward(self, weight: Tensor) -> tuple[Tensor, ...]:
        """The matrices for a shared tensor `[N, K]`, in the order of `names`."""
        return (weight,) * len(self.names)


class TwoExperts(Derivation):
    """A mixture's experts have the same matrix, the one as it is, the other rounded by the layer."""

    names = ("weight", "shift_weight")


class Templates(Derivation):
    """An adder's templates are the shared tensor mapped to a Laplace distribution."""

    def __init__(self, weight: Tensor, layer: AdderLinear) -> None:
        super().__init__()
        self.map = LaplaceMap.between(weight, deviation=float(layer.weight.detach().std(correction=0)))

    def forward(self, weight: Tensor) -> tuple[Tensor, ...]:
        """`T(W)`."""
        return (self.map(weight),)


class Cascade(Derivation):
    """A cascade rotates the shared tensor in its shift half, and back in its adder half, whose templates are fixed."""

    names = ("weight", "adder_weight")
    gains: Tensor

    def __init__(self, weight: Tensor, layer: ShiftAddLinear) -> None:
        super().__init__()
        enlarge = layer.weight.detach().float().norm() / weight.detach().float().norm()
        gain = layer.adder_weight.detach().float().norm() / weight.shape[0] ** 0.5 * enlarge
        self.register_buffer("gains", torch.stack([enlarge, gain]))

    def forward(self, weight: Tensor) -> tuple[Tensor, ...]:
        """`OᵀW` and `O`, each with its gain."""
        rotated, templates = cascade_weights(weight, *self.gains)
        return rotated.to(weight.dtype), templates.to(weight.dtype)


class View(nn.Module):
    """One operator over a shared tensor.

    Args:
        spec: How it computes.
        weight: The tensor that is shared, `[N, K]`.
        bias: `[N]`, or None; the view gets a copy.
    """

    def __init__(self, spec: Spec, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.spec = spec
        self.layer = whole_layer(stand_in(spec), weight, bias)
        self.derivation = _derivation(self.layer, weight)
        for name in self.derivation.names:
            self.layer.register_parameter(name, None)

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        """`x [..., K]` to `[..., N]` with a shared tensor `[N, K]`, or the leading part of it."""
        return computed(x, self.layer, self.spec, weight, self._matrices(weight))

    def extracted(self, dense: nn.Module) -> nn.Module:
        """A layer of its own that computes the same as this view.

        Args:
            dense: What it takes the place of, holding the shared tensor or the first rows of it.
        """
        weight = dense_weight(dense).detach()
        tensors = {**self._matrices(weight), **self.layer.state_dict()}
        return filled(dense, self.spec, tensors)

    def mismatch(self, weight: Tensor) -> Tensor | None:
        """See `LaplaceMap`; None where no distribution is mapped."""
        return self.derivation.map.mismatch(weight) if isinstance(self.derivation, Templates) else None

    def _matrices(self, weight: Tensor) -> dict[str, Tensor]:
        return dict(zip(self.derivation.names, self.derivation(weight), strict=True))


def computed(x: Tensor, layer: nn.Module, spec: Spec, weight: Tensor, lent: Mapping[str, Tensor]) -> Tensor:
    """`x [..., K]` to `[..., N]` by the leading part of a layer.

    Args:
        x: Input.
        layer: At least as large as what computes.
        spec: How it computes.
        weight: Has the shape `[N, K]` of what computes.
        lent: Parameters that the layer has not itself.
    """
    part = leading_part(layer, empty_layer(stand_in(spec), *weight.shape, layer.bias is not None), lent)
    before = dict(part._buffers)
    y: Tensor = part(x)
    for name, value in part._buffers.items():
        if value is not before[name]:  # written anew, not in place: a router's counts
            layer._buffers[name] = value
    return y


def whole_layer(spec: Spec, weight: Tensor, bias: Tensor | None) -> nn.Module:
    """A layer with a weight of its own that starts from these values."""
    own = None if bias is None else nn.Parameter(bias.detach().clone())
    dense = make_dense(nn.Linear, weight, own)
    return latent_type(spec).from_dense(dense, spec) if spec.changes else dense


def stand_in(spec: Spec) -> Spec:
    """Shifts that train signs and exponents have no weight: the same levels, rounded from one, stand for them."""
    if isinstance(spec, ShiftSpec) and spec.parametrization != "q":
        return replace(spec, parametrization="q", zero=spec.format.zero)
    return spec


def filled(dense: nn.Module, spec: Spec, tensors: Mapping[str, Tensor]) -> nn.Module:
    """A layer in the place of a dense one with copies of these tensors, as many rows and columns as it needs."""
    own = stand_in(spec)
    n, k = dense_weight(dense).shape
    empty: Any = nn.Linear(k, n, "bias" in tensors, device="meta")
    if own.changes:
        empty = latent_type(own).skeleton(dense, own)
    for name, place in [*empty.named_parameters(), *empty.named_buffers()]:
        value = tensors[name].detach()[tuple(map(slice, place.shape))].clone()
        if isinstance(place, nn.Parameter):
            value = nn.Parameter(value, requires_grad=place.requires_grad)
        setattr(empty, name, value)
    if not own.changes:
        return make_dense(type(dense), empty.weight, empty.bias)
    layer: nn.Module = empty if own == spec else latent_type(spec).from_dense(empty.to_dense(), spec)
    return layer.train(dense.training)


def _derivation(layer: nn.Module, weight: Tensor) -> Derivation:
    if isinstance(layer, AdderLinear):
        return Templates(weight, layer)
    if isinstance(layer, ShiftAddLinear):
        return Cascade(weight, layer)
    return TwoExperts() if isinstance(layer, MixtureLinear) else Derivation()
