"""How the core of one attention computes: what happens between its input projections and its output projection.

The projections are linear layers and have entries of their own in a plan; an attention with shift projections and an
ordinary softmax needs no spec from here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from .base import Place, Spec, require, require_choice, require_integer, require_positive

Form = Literal["linear", "quadratic"]
Codes = Literal["binary", "sign"]
Mixer = Literal["conv", "add", "shift_add"]


@dataclass(frozen=True)
class AttentionSpec(Spec):
    """What all cores have in common: they stand in an attention module."""

    place: ClassVar[Place] = "attention"


@dataclass(frozen=True)
class SoftmaxSpec(AttentionSpec):
    """The ordinary attention, as a choice beside the others. It changes nothing."""

    kind: ClassVar[str] = "softmax"
    changes: ClassVar[bool] = False


@dataclass(frozen=True)
class BinaryLinearSpec(AttentionSpec):
    """Queries and keys of one bit per element: scores are sums of signs, and products become additions.

    Args:
        form: "linear" computes q(kᵀv) with the first-order angular kernel, in time linear in the tokens; "quadratic"
            keeps the softmax over q·k.
        codes: What a bit stands for in the linear form: 0 and 1 ("binary"), or −1 and 1 ("sign").
        kernel_size: Tokens that the depthwise convolution over values sees; 0 leaves it out. Odd where the attention
            is not causal. The linear form alone has one.
        momentum: How fast the running threshold of each head follows its batches in training.
    """

    kind: ClassVar[str] = "binary_linear"
    form: Form = "linear"
    codes: Codes = "binary"
    kernel_size: int = 9
    momentum: float = 0.1

    def __post_init__(self) -> None:
        require_choice(self, "form", get_args(Form))
        require_choice(self, "codes", get_args(Codes))
        require_integer(self, "kernel_size", 0, 1023)
        require_positive(self, "momentum")
        require(self.momentum <= 1, f"binary_linear: momentum must be at most 1, not {self.momentum!r}")


@dataclass(frozen=True)
class AdderAttentionSpec(AttentionSpec):
    """Scores are negative L1 distances between queries and keys, divided by their deviation.

    Args:
        bits: 8 puts queries and keys of a head on one power-of-two int8 grid; None measures distances in float.
        identity: Add each token's own value to the result (self-attention), which gives back the diversity that
            distance scores lack.
        momentum: How fast the running variance of each head follows its batches in training.
    """

    kind: ClassVar[str] = "adder_attention"
    bits: int | None = None
    identity: bool = True
    momentum: float = 0.1

    def __post_init__(self) -> None:
        require_choice(self, "bits", (None, 8))
        require_choice(self, "identity", (True, False))
        require_positive(self, "momentum")
        require(self.momentum <= 1, f"adder_attention: momentum must be at most 1, not {self.momentum!r}")


@dataclass(frozen=True)
class MixerSpec(AttentionSpec):
    """A token mixer without queries and keys, for all heads or for half of them (ShiftAddNAS's block operators).

    Args:
        op: "conv" is a lightweight convolution: one temporal kernel per head, shared by the head's channels. "add"
            sums −|v − w| over the same window. "shift_add" puts a shift layer before that sum.
        attention: Keep softmax attention in the first half of the heads, and mix in the other half only.
        kernel_size: Tokens in the window, 1 to 255; odd where the attention is not causal.
        softmax: Normalise a convolution's kernel by a softmax over its taps.
        eta: Adaptive learning-rate factor of an L1 kernel, applied by the optimizer.
    """

    kind: ClassVar[str] = "mixer"
    op: Mixer = "conv"
    attention: bool = False
    kernel_size: int = 7
    softmax: bool = True
    eta: float = 0.2

    def __post_init__(self) -> None:
        require_choice(self, "op", get_args(Mixer))
        require_choice(self, "attention", (True, False))
        require_integer(self, "kernel_size", 1, 255)
        require_choice(self, "softmax", (True, False))
        require_positive(self, "eta")
