"""Which layer classes stand for a spec: one row per operator."""

from __future__ import annotations

from ..specs import AdderSpec, BcqSpec, ShiftAddSpec, ShiftSpec, Spec
from .adder import AdderLinear, PackedAdderLinear
from .base import LatentModule, OperatorModule, PackedModule, dense_weight, is_dense
from .bcq import BcqLinear, PackedBcqLinear
from .shift import LATENT_SHIFT, DenseShiftLinear, PackedShiftLinear, ShiftLinear, ShiftPSLinear
from .shift_add import PackedShiftAddLinear, ShiftAddLinear

__all__ = [
    "AdderLinear",
    "BcqLinear",
    "DenseShiftLinear",
    "LatentModule",
    "OperatorModule",
    "PackedAdderLinear",
    "PackedBcqLinear",
    "PackedModule",
    "PackedShiftAddLinear",
    "PackedShiftLinear",
    "ShiftAddLinear",
    "ShiftLinear",
    "ShiftPSLinear",
    "dense_weight",
    "is_dense",
    "latent_type",
    "packed_type",
]

_LATENT: dict[type[Spec], type[LatentModule]] = {
    AdderSpec: AdderLinear,
    ShiftAddSpec: ShiftAddLinear,
    BcqSpec: BcqLinear,
}
_PACKED: dict[type[Spec], type[PackedModule]] = {
    ShiftSpec: PackedShiftLinear,
    AdderSpec: PackedAdderLinear,
    ShiftAddSpec: PackedShiftAddLinear,
    BcqSpec: PackedBcqLinear,
}


def latent_type(spec: Spec) -> type[LatentModule]:
    """The trainable layer of a spec."""
    return LATENT_SHIFT[spec.parametrization] if isinstance(spec, ShiftSpec) else _LATENT[type(spec)]


def packed_type(spec: Spec) -> type[PackedModule]:
    """The packed layer of a spec."""
    return _PACKED[type(spec)]
