"""Transformers that compute with shifts and additions in the place of multiplications.

>>> import shiftadd_transformers as sat
>>> from torch import nn
>>> model = nn.ModuleDict({"fc1": nn.Linear(16, 32), "fc2": nn.Linear(32, 16)})
>>> plan = sat.make_plan(model, [sat.rule("fc1", sat.ShiftSpec(bits=4)), sat.rule("fc2", "bcq")])
>>> model = sat.pack_(sat.convert_(model, plan))
>>> model["fc1"]
PackedShiftLinear(16, 32, shift)
"""

from __future__ import annotations

from .hf import ShiftAddConfig, convert_, load, pack_, revert_, save, unpack_
from .plan import Plan
from .planning import make_plan
from .rules import Rule, rule
from .specs import (
    AdderAttentionSpec,
    AdderSpec,
    BcqSpec,
    BinaryLinearSpec,
    DenseSpec,
    MixerSpec,
    MixtureSpec,
    ShiftAddSpec,
    ShiftSpec,
    SoftmaxSpec,
    Spec,
)

__version__ = "0.1.0"

__all__ = [
    "AdderAttentionSpec",
    "AdderSpec",
    "BcqSpec",
    "BinaryLinearSpec",
    "DenseSpec",
    "MixerSpec",
    "MixtureSpec",
    "Plan",
    "Rule",
    "ShiftAddConfig",
    "ShiftAddSpec",
    "ShiftSpec",
    "SoftmaxSpec",
    "Spec",
    "convert_",
    "load",
    "make_plan",
    "pack_",
    "revert_",
    "rule",
    "save",
    "unpack_",
]
