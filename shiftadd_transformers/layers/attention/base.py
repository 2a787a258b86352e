"""What every attention core is: the part of an attention between its projections."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn

from ...operators.counts import OpCounts
from ...specs.attention import AttentionSpec
from ..base import INITIALISED
from .visibility import Visibility
from .window import TapWindow

_CROSS = re.compile(r"(?:^|[._])(?:encoder_attn|EncDecAttention|crossattention|cross_attn)(?:[._]|$)")
_WIDTHS = ("head_dim", "attention_head_size", "key_value_proj_dim")
_HEADS = ("num_heads", "num_attention_heads", "n_heads")


class AttentionCore(nn.Module):
    """Heads of queries, keys and values in, heads of mixed values out.

    A core stands in its attention module under the name `core`. It keeps no tokens: what an incremental step needs
    of the past is in the keys and values that it is handed.

    Attributes:
        spec: How it computes.
        heads: H.
        head_dim: E.
        cross: Whether targets and sources are different tokens.
        causal: Whether it stands in a decoder's self-attention.
        reach: How many tokens back, itself included, a target may look; None without limit.
    """

    spec: AttentionSpec

    def __init__(
        self,
        spec: Any,
        heads: int,
        head_dim: int,
        *,
        cross: bool = False,
        causal: bool = False,
        reach: int | None = None,
        device: Any = None,
    ) -> None:
        super().__init__()
        self.spec, self.heads, self.head_dim = spec, heads, head_dim
        self.cross, self.causal, self.reach = cross, causal, reach
        with torch.device(device or "cpu"):
            self.allocate()
        for tensor in (*self.parameters(), *self.buffers()):
            setattr(tensor, INITIALISED, True)

    def allocate(self) -> None:
        """Make room for this core's own tensors and give them their first values.

        Raises:
            ValueError: The spec does not fit this attention.
        """

    def forward(self, query: Tensor, key: Tensor, value: Tensor, visibility: Visibility, scaling: float) -> Tensor:
        """Mix values.

        Args:
            query: `[B, H, T, E]`.
            key: `[B, H, S, E]`.
            value: `[B, H, S, E]`.
            visibility: Which sources a target sees.
            scaling: What dot products of queries and keys are multiplied with.

        Returns:
            `[B, H, T, E]`.
        """
        raise NotImplementedError

    def weights(self, query: Tensor, key: Tensor, value: Tensor, visibility: Visibility, scaling: float) -> Tensor:
        """How much each source counts for each target, `[B, H, T, S]`: for pictures. Not normalised by all cores."""
        raise NotImplementedError

    def counts(self, batch: int, targets: int, sources: int) -> OpCounts:
        """Operations of one forward."""
        raise NotImplementedError

    @property
    def active(self) -> AttentionCore | None:
        """The core that computes at present: this one, unless it stands for several. None is ordinary attention."""
        return self

    @property
    def query_heads(self) -> int:
        """Heads whose queries and keys it reads; they are the first ones."""
        return self.heads

    def window_of(self, size: int) -> TapWindow:
        """A window of so many neighbouring tokens, cut to what a target may look back to.

        A cache with a sliding window forgets what lies further back, so the whole sequence must not see it either.
        """
        return TapWindow(min(size, self.reach) if self.causal and self.reach else size, self.causal)

    def extra_repr(self) -> str:
        """Shown by `print(model)`."""
        return f"{self.heads} × {self.head_dim}, {self.spec}"


def is_cross_attention(name: str) -> bool:
    """Whether an attention module looks at another sequence, told by its name.

    >>> is_cross_attention("model.decoder.layers.0.encoder_attn"), is_cross_attention("model.layers.0.self_attn")
    (True, False)
    """
    return _CROSS.search(name) is not None


def sliding_window(attention: nn.Module) -> int | None:
    """How many tokens back an attention module may look, itself included; None without limit."""
    if hasattr(attention, "sliding_window"):
        return attention.sliding_window  # type: ignore[return-value]
    return getattr(getattr(attention, "config", None), "sliding_window", None)


def set_heads_(attention: nn.Module, heads: int) -> None:
    """Tell an attention module how many heads it has, under whatever name its architecture has for that."""
    for name in [name for name in _HEADS if hasattr(attention, name)] or _HEADS[:1]:
        setattr(attention, name, heads)


def head_shape(attention: nn.Module, projection: nn.Module) -> tuple[int, int]:
    """`(H, E)` of an attention module, whatever its architecture calls them.

    Args:
        attention: The module.
        projection: Its query projection, or the one for all three.

    Raises:
        ValueError: The module tells neither.
    """
    config = getattr(attention, "config", None)
    heads = next((getattr(attention, name) for name in _HEADS if hasattr(attention, name)), None)
    heads = heads or getattr(config, "num_attention_heads", None)
    width = next((getattr(attention, name) for name in _WIDTHS if hasattr(attention, name)), None)
    if heads and not width:
        width = getattr(projection, "out_features", 0) // heads
    if not (isinstance(heads, int) and isinstance(width, int) and width > 0):
        raise ValueError(f"{type(attention).__name__} does not say how many heads it has, nor how wide they are")
    return heads, width
