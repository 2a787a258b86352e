"""Which layer classes stand for a spec: one row per operator."""

from __future__ import annotations

from ..specs import AdderSpec, BcqSpec, MixtureSpec, ShiftAddSpec, ShiftSpec, Spec
from .adder import AdderLinear, PackedAdderLinear
from .base import LatentModule, OperatorModule, PackedModule, dense_weight, is_dense
from .bcq import BcqLinear, PackedBcqLinear
from .mixture import MixtureLinear, PackedMixtureLinear, expert_shares, set_balance_scale
from .shift import LATENT_SHIFT, DenseShiftLinear, PackedShiftLinear, ShiftLinear, ShiftPSLinear
from .shift_add import PackedShiftAddLinear, ShiftAddLinear

__all__ = [
    "AdderLinear",
    "BcqLinear",
    "DenseShiftLinear",
    "LatentModule",
    "MixtureLinear",
    "OperatorModule",
    "PackedAdderLinear",
    "PackedBcqLinear",
    "PackedMixtureLinear",
    "PackedModule",
    "PackedShiftAddLinear",
    "PackedShiftLinear",
    "ShiftAddLinear",
    "ShiftLinear",
    "ShiftPSLinear",
    "dense_weight",
    "expert_shares",
    "is_dense",
    "latent_type",
    "packed_type",
    "set_balance_scale",
]

_LATENT: dict[type[Spec], type[LatentModule]] = {
    AdderSpec: AdderLinear,
    ShiftAddSpec: ShiftAddLinear,
    BcqSpec: BcqLinear,
    MixtureSpec: MixtureLinear,
}
_PACKED: dict[type[Spec], type[PackedModule]] = {
    ShiftSpec: PackedShiftLinear,
    AdderSpec: PackedAdderLinear,
    ShiftAddSpec: PackedShiftAddLinear,
    BcqSpec: PackedBcqLinear,
    MixtureSpec: PackedMixtureLinear,
}


def latent_type(spec: Spec) -> type[LatentModule]:
    """The trainable layer of a spec."""
    return LATENT_SHIFT[spec.parametrization] if isinstance(spec, ShiftSpec) else _LATENT[type(spec)]


def packed_type(spec: Spec) -> type[PackedModule]:
    """The packed layer of a spec."""
    return _PACKED[type(spec)]
