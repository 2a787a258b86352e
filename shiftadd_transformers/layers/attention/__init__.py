"""Which core stands for an attention's spec: one row per spec."""

from __future__ import annotations

from typing import Any

from ...specs.attention import AdderAttentionSpec, BinaryLinearSpec, MixerSpec
from ...specs.base import Spec
from .adder import AdderAttention
from .base import AttentionCore, head_shape, is_cross_attention, set_heads_, sliding_window
from .binary import BinaryAttention, BinaryLinearAttention
from .mixers import TokenMixer
from .visibility import Visibility

__all__ = [
    "AdderAttention",
    "AttentionCore",
    "BinaryAttention",
    "BinaryLinearAttention",
    "TokenMixer",
    "Visibility",
    "core_type",
    "head_shape",
    "is_cross_attention",
    "set_heads_",
    "sliding_window",
]


def core_type(spec: Spec) -> Any:
    """The class of a spec's core.

    Raises:
        ValueError: The spec changes nothing and has none.
    """
    if isinstance(spec, BinaryLinearSpec):
        return BinaryLinearAttention if spec.form == "linear" else BinaryAttention
    if isinstance(spec, AdderAttentionSpec):
        return AdderAttention
    if isinstance(spec, MixerSpec):
        return TokenMixer
    raise ValueError(f"{spec} leaves an attention as it is")
