"""Every operator of a linear layer and every core of an attention, as choices: what the tests of supernets share."""

from __future__ import annotations

import shiftadd_transformers as sat

EVERY_LAYER = [
    "dense",
    sat.ShiftSpec(bits=4),
    sat.ShiftSpec(bits=5, terms=2, group_size=8),
    sat.ShiftSpec(bits=3, parametrization="denseshift"),
    sat.ShiftSpec(parametrization="ps"),
    sat.AdderSpec(),
    sat.AdderSpec(norm=True, bits=None),
    "shift_add",
    sat.BcqSpec(planes=2),
    sat.BcqSpec(planes=2, grouping="column"),
    "mixture",
]
EVERY_CORE = [
    "softmax",
    sat.BinaryLinearSpec(kernel_size=3),
    sat.BinaryLinearSpec(form="quadratic"),
    sat.AdderAttentionSpec(),
    sat.MixerSpec("conv", kernel_size=3),
    sat.MixerSpec("add", attention=True, kernel_size=3),
    sat.MixerSpec("shift_add", attention=True, kernel_size=3),
]
