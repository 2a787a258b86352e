"""Attention by distance: softmax(−‖q − k‖₁ / deviation), with each token's own value added.

A distance over E elements of unit variance has a deviation of √(2E(1 − 2/π)), and dividing by it gives scores the
spread that q·k/√E has; the constant mean is no matter, as a softmax forgets it. The divisor is a power of two.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ...operators.adder_attention import adder_attention, adder_attention_weights
from ...operators.counts import (
    OpCounts,
    adder_linear_counts,
    dense_linear_counts,
    quantize_grid_counts,
    softmax_counts,
)
from ...operators.exponent_bits import floor_log2
from ...operators.ste import po2_scale_ste
from ...specs.attention import AdderAttentionSpec
from .base import AttentionCore
from .running import RunningMean
from .visibility import Visibility

_GRID_DEVIATIONS = 4.0
"""Deviations that ±127 grid steps reach to; a normal variable leaves them once in 16 000 times."""


class AdderAttention(AttentionCore):
    """Softmax over negative L1 distances.

    Attributes:
        gain: Real `[H]`, 1 at first: sharpens a head. Its product with the inverse deviation is rounded to a power of
            two in the forward.
        variance: Running mean of the variances of queries and keys together, per head.

    References:
        Shu et al., Adder attention for vision transformer, NeurIPS 2021 (distances, identity path). Differs: the scale
        follows from the statistics of a distance and is learned per head.
    """

    spec: AdderAttentionSpec

    def allocate(self) -> None:
        """Gain and running variance."""
        self.gain = nn.Parameter(torch.ones(self.heads))
        self.variance = RunningMean(self.heads, self.spec.momentum, start=2.0)
        self.window = self.window_of(1)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, visibility: Visibility, scaling: float) -> Tensor:
        """See the module's formula. `scaling` is not used: a distance has a scale of its own."""
        y = adder_attention(query, key, value, *self._settings(query, key, visibility))
        if not self.spec.identity or self.cross:
            return y
        return y + self.window.own(visibility.zero_unseen(value), query.shape[-2], visibility)

    def weights(self, query: Tensor, key: Tensor, value: Tensor, visibility: Visibility, scaling: float) -> Tensor:
        """The softmax, without the identity path."""
        return adder_attention_weights(query, key, *self._settings(query, key, visibility))

    def _settings(
        self, query: Tensor, key: Tensor, visibility: Visibility
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
        """Scale, mask, bias and grid."""
        self._follow(query.detach(), key.detach(), visibility.seen())
        variance = self.variance.mean.float().clamp_min(1e-6)
        deviation = (self.head_dim * (1 - 2 / math.pi) * variance).sqrt()
        scale = po2_scale_ste(self.gain / deviation.to(self.gain.dtype))
        mask = visibility.mask(query.shape[-2], key.shape[-2], query.device)
        return scale, mask, visibility.bias, self._grid(variance)

    def _follow(self, query: Tensor, key: Tensor, seen: Tensor | None) -> None:
        if not self.training:
            return
        if query.shape == key.shape:
            self.variance.follow(query.float().square() + key.float().square(), seen)
        else:
            spread = query.float().square().mean(dim=2, keepdim=True)
            self.variance.follow(spread + key.float().square(), seen)

    def _grid(self, variance: Tensor) -> Tensor | None:
        if self.spec.bits is None:
            return None
        step = (variance / 2).sqrt() * (_GRID_DEVIATIONS / 127)
        return (floor_log2(step) + 1).clamp(-126, 120).to(torch.int8)

    def counts(self, batch: int, targets: int, sources: int) -> OpCounts:
        """Distances, a shift per score, softmax, the product with the values, the identity path."""
        e = self.head_dim
        scores = adder_linear_counts(targets, sources, e, scales=1)
        if self.spec.bits is not None:
            scores += quantize_grid_counts(targets + sources, e)
        mixing = softmax_counts(targets, sources) + dense_linear_counts(targets, e, sources)
        identity = OpCounts(add=targets * e if self.spec.identity and not self.cross else 0)
        return (scores + mixing + identity) * (batch * self.heads)
