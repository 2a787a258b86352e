"""Attention with queries and keys of one bit per element.

Linear form, for token i: `normalise(½·v_i + (1/π)·Σ_j (b_i·b_j) v_j) + (depthwise convolution of v)_i`. It is the first
order of the angular kernel 1 − θ/π around orthogonal codes, summed as b_q (b_kᵀ v) where nothing but padding is hidden:
time and memory grow with the tokens, not with their square, and both products are additions of values that a bit
selects. Under a causal mask the same function is summed pair by pair.

Quadratic form: `softmax(g·s_i·s_j) v_j` with signs s and a power-of-two gain g per head.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ...operators.binary_attention import (
    binary_attention,
    binary_attention_counts,
    combined,
    combined_counts,
)
from ...operators.counts import OpCounts, dense_linear_counts, matadd_counts, softmax_counts
from ...operators.ste import po2_scale_ste
from ...specs.attention import BinaryLinearSpec
from .base import AttentionCore
from .codes import Binarizer
from .softmax import visible_softmax
from .visibility import Visibility


class _BinaryCore(AttentionCore):
    """What both forms share: codes."""

    spec: BinaryLinearSpec

    def allocate(self) -> None:
        """A running threshold for the queries and one for the keys."""
        self.queries = Binarizer(self.heads, self.spec.momentum)
        self.keys = Binarizer(self.heads, self.spec.momentum)

    def follow(self, query: Tensor, key: Tensor, visibility: Visibility) -> None:
        """Let the thresholds follow, in training."""
        seen = visibility.seen()
        same = not self.cross and query.shape[-2] == key.shape[-2]
        self.queries.follow(query, seen if same else None)
        self.keys.follow(key, seen)

    def pairs(self, query: Tensor, key: Tensor, binary: bool) -> Tensor:
        """Inner products of codes, whole numbers, `[B, H, T, S]`."""
        return self.queries(query, binary) @ self.keys(key, binary).mT


class BinaryLinearAttention(_BinaryCore):
    """The linear form.

    Attributes:
        taps: Depthwise convolution over values, `[H, kernel_size]`; zeros at first.

    References:
        You et al., ShiftAddViT, NeurIPS 2023; Liu et al., EcoFormer, NeurIPS 2022. Differs: the codes (see
        `Binarizer`); the row norm has a floor; in cross-attention, where no
        token has a value of its own, the constant part is ½·Σ_j v_j as in the kernel's expansion.
    """

    def allocate(self) -> None:
        """Thresholds, and the convolution's taps."""
        super().allocate()
        self.window = self.window_of(0 if self.cross else self.spec.kernel_size)
        if self.window.size:
            self.taps = nn.Parameter(torch.zeros(self.heads, self.window.size))

    def forward(self, query: Tensor, key: Tensor, value: Tensor, visibility: Visibility, scaling: float) -> Tensor:
        """See the module's formula; `scaling` has no meaning here, as the row norm cancels it."""
        _refuse_bias(visibility)
        value = visibility.zero_unseen(value)
        self.follow(query, key, visibility)
        targets = query.shape[-2]
        if self.cross:
            own = value.sum(dim=-2, keepdim=True).expand(*value.shape[:2], targets, -1)
        else:
            own = self.window.own(value, targets, visibility)
        if visibility.same_for_all_targets(targets):
            y = self._mix(query, key, value, own)
        else:
            y = combined(own, self._visible_pairs(query, key, visibility) @ value)
        if not self.window.size:
            return y
        return y + self.window.convolve(value, self.taps, targets, visibility)

    def _mix(self, query: Tensor, key: Tensor, value: Tensor, own: Tensor) -> Tensor:
        binary = self.spec.codes == "binary"
        if torch.is_grad_enabled():
            return combined(own, self.queries(query, binary) @ (self.keys(key, binary).mT @ value))
        thresholds = self.queries.threshold.mean, self.keys.threshold.mean
        return binary_attention(query, key, value, own, *thresholds, binary)

    def _visible_pairs(self, query: Tensor, key: Tensor, visibility: Visibility) -> Tensor:
        """Inner products of codes where a target sees a source, else 0, `[B, H, T, S]`."""
        products = self.pairs(query, key, self.spec.codes == "binary")
        mask = visibility.mask(query.shape[-2], key.shape[-2], query.device)
        return products if mask is None else products.masked_fill(~mask, 0)

    def weights(self, query: Tensor, key: Tensor, value: Tensor, visibility: Visibility, scaling: float) -> Tensor:
        """Scaled inner products of codes."""
        return self._visible_pairs(query, key, visibility) / math.pi

    def counts(self, batch: int, targets: int, sources: int) -> OpCounts:
        """Two MatAdds on codes (or pairs, under a causal mask), the row norm, the convolution."""
        e, binary = self.head_dim, self.spec.codes == "binary"
        if self.causal:
            mixing = matadd_counts(targets, sources, e) + dense_linear_counts(targets, e, sources)
            mixing += OpCounts(add=(targets + sources) * e) + combined_counts(targets, e)
        else:
            mixing = binary_attention_counts(targets, sources, e, e, binary)
        if self.window.size:
            mixing += dense_linear_counts(targets, e, self.window.size) + OpCounts(add=targets * e)
        return mixing * (batch * self.heads)


class BinaryAttention(_BinaryCore):
    """The quadratic form.

    Attributes:
        gain: Real `[H]`, 1 at first; times 1/√E it is rounded to a power of two in the forward.

    References:
        You et al., ShiftAddViT, NeurIPS 2023 (quadratic attention with binary queries and keys).
    """

    def allocate(self) -> None:
        """Thresholds, and a gain per head."""
        super().allocate()
        self.gain = nn.Parameter(torch.ones(self.heads))

    def forward(self, query: Tensor, key: Tensor, value: Tensor, visibility: Visibility, scaling: float) -> Tensor:
        """Softmax over agreements of signs."""
        return self.weights(query, key, value, visibility, scaling) @ value

    def weights(self, query: Tensor, key: Tensor, value: Tensor, visibility: Visibility, scaling: float) -> Tensor:
        """The softmax itself."""
        self.follow(query, key, visibility)
        gain = po2_scale_ste(self.gain / math.sqrt(self.head_dim)).to(query.dtype)
        return visible_softmax(self.pairs(query, key, binary=False) * gain.view(-1, 1, 1), visibility)

    def counts(self, batch: int, targets: int, sources: int) -> OpCounts:
        """Codes, MatAdd, a shift per score, softmax, and the product with the values."""
        scores = matadd_counts(targets, sources, self.head_dim) + OpCounts(shift=targets * sources)
        mixing = softmax_counts(targets, sources) + dense_linear_counts(targets, self.head_dim, sources)
        codes = OpCounts(add=(targets + sources) * self.head_dim)
        return (codes + scores + mixing) * (batch * self.heads)


def _refuse_bias(visibility: Visibility) -> None:
    if visibility.bias is not None:
        raise ValueError(
            "linear attention has no scores that this model's position bias could be added to; use "
            'BinaryLinearSpec(form="quadratic") or AdderAttentionSpec() here'
        )
