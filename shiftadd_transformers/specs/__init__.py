"""How one module computes: a frozen value per operator.

A spec is the unit that a plan maps module names to. It is plain data: it compares by value, hashes, and travels
through JSON unchanged, so that a plan can be saved, diffed and searched over.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from .attention import AdderAttentionSpec, AttentionSpec, BinaryLinearSpec, MixerSpec, SoftmaxSpec
from .base import Spec, nearest
from .linear import AdderSpec, BcqSpec, DenseSpec, ShiftAddSpec, ShiftSpec
from .mixture import MixtureSpec

__all__ = [
    "SPECS",
    "AdderAttentionSpec",
    "AdderSpec",
    "AttentionSpec",
    "BcqSpec",
    "BinaryLinearSpec",
    "DenseSpec",
    "MixerSpec",
    "MixtureSpec",
    "ShiftAddSpec",
    "ShiftSpec",
    "SoftmaxSpec",
    "Spec",
    "as_spec",
    "nearest",
    "spec_from_dict",
]

_LINEAR: tuple[type[Spec], ...] = (DenseSpec, ShiftSpec, AdderSpec, ShiftAddSpec, BcqSpec, MixtureSpec)
_ATTENTION: tuple[type[Spec], ...] = (SoftmaxSpec, BinaryLinearSpec, AdderAttentionSpec, MixerSpec)
SPECS: dict[str, type[Spec]] = {cls.kind: cls for cls in (*_LINEAR, *_ATTENTION)}


def spec_from_dict(data: dict[str, Any]) -> Spec:
    """Rebuild a spec from its JSON form.

    Raises:
        ValueError: Unknown kind or field; the message proposes the nearest names.

    >>> spec_from_dict({"kind": "shift", "bits": 3})
    ShiftSpec(bits=3, terms=1, group_size=None, parametrization='q', zero=None, activation_bits=None)
    """
    fields = dict(data)
    kind = fields.pop("kind", None)
    if kind not in SPECS:
        raise ValueError(f"unknown operator {kind!r}; {nearest(str(kind), list(SPECS))}")
    cls = SPECS[kind]
    known = [field.name for field in dataclasses.fields(cls)]
    for name in fields:
        if name not in known:
            raise ValueError(f"operator {kind!r} has no field {name!r}; {nearest(name, known)}")
    return cls(**fields)


def as_spec(value: Spec | str | dict[str, Any]) -> Spec:
    """Accept a spec, its JSON form, or the bare name of an operator.

    >>> as_spec("adder")
    AdderSpec(bits=8, center=True, eta=0.2, norm=False)
    """
    if isinstance(value, Spec):
        return value
    return spec_from_dict({"kind": value} if isinstance(value, str) else value)
