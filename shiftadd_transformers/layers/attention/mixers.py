"""Token mixers of ShiftAddNAS: what stands beside attention where neighbours are enough.

A mixer reads the values alone, a window of tokens around each target. The value projection before it and the output
projection behind it are the two linear layers of a lightweight convolution; queries and keys are not computed (see
`layers.projections`). The history that an incremental step needs is in the attention's cache of values, so decoding
step by step computes exactly what decoding the whole sequence does.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ...operators.adder_window import adder_window, adder_window_counts
from ...operators.counts import OpCounts, dense_linear_counts, softmax_counts
from ...operators.ste import po2_scale_ste
from ...specs import ShiftSpec
from ...specs.attention import MixerSpec
from ..shift import ShiftLinear
from .base import AttentionCore
from .softmax import dot_product_softmax
from .visibility import Visibility


class TokenMixer(AttentionCore):
    """Lightweight convolution, Add or ShiftAdd, for all heads or beside softmax attention in the other half.

    Attributes:
        taps: One temporal kernel per mixing head, `[H', kernel_size]`.
        output_scale: Real `[H']` of the L1 forms, rounded to a power of two: brings the distance to unit variance.
        shift: Of "shift_add", the shift layer before the distance; the identity at first.

    References:
        You et al., ShiftAddNAS, ICML 2022; Wu et al., Pay less attention with lightweight and dynamic convolutions,
        ICLR 2019; Wu et al., Lite transformer, ICLR 2020 (halves). Differs: the distance is centred over a token's
        channels and scaled, as it would otherwise swamp the residual stream; halves are split by heads behind the
        projections, not by channels before them; the shift layer is DeepShift-Q with 4 bits.
    """

    spec: MixerSpec

    def allocate(self) -> None:
        """The kernel, and what else the operator needs."""
        if self.cross:
            raise ValueError(
                "a token mixer looks at neighbours in its own sequence and cannot stand in a cross-attention"
            )
        if self.spec.attention and self.heads < 2:
            raise ValueError("half of the heads attend and half mix; with one head use MixerSpec(attention=False)")
        self.window = self.window_of(self.spec.kernel_size)
        mixing, size = self.heads - self.query_heads, self.window.size
        if self.spec.op == "conv":
            self.taps = nn.Parameter(_first_taps(mixing, size, self.window.before, self.spec.softmax))
            return
        self.taps = nn.Parameter(torch.zeros(mixing, size))
        self.output_scale = nn.Parameter(torch.full((mixing,), 1 / math.sqrt(size * (1 - 2 / math.pi))))
        if self.spec.op == "shift_add":
            width = mixing * self.head_dim
            self.shift = ShiftLinear(ShiftSpec(), width, width, bias=False)
            if not self.shift.weight.is_meta:
                nn.init.eye_(self.shift.weight)

    @property
    def query_heads(self) -> int:
        """The attending half, or none."""
        return self.heads // 2 if self.spec.attention else 0

    def forward(self, query: Tensor, key: Tensor, value: Tensor, visibility: Visibility, scaling: float) -> Tensor:
        """Attend in the first heads, mix in the others."""
        h, targets = self.query_heads, query.shape[-2]
        mixed = self._mix(value[:, h:], targets, visibility)
        if not h:
            return mixed
        shares = self._shares(query, key, visibility, scaling)
        return torch.cat([shares @ value[:, :h], mixed], dim=1)

    def weights(self, query: Tensor, key: Tensor, value: Tensor, visibility: Visibility, scaling: float) -> Tensor:
        """Softmax of the attending heads, the kernel's magnitudes of the others."""
        h, (batch, _, targets, _), sources = self.query_heads, query.shape, value.shape[-2]
        positions = visibility.positions(targets, sources, value.device)
        taps = self.kernel().detach().abs()
        picture = value.new_zeros(batch, self.heads, targets, sources + 2 * self.window.size)
        for j in range(self.window.size):
            index = (positions - self.window.before + j + self.window.size).view(1, 1, -1, 1)
            columns = taps[:, j].view(1, -1, 1, 1).expand(batch, -1, targets, 1)
            picture[:, h:].scatter_(-1, index.expand_as(columns), columns.to(picture.dtype))
        picture = picture[..., self.window.size : self.window.size + sources].clone()
        if h:
            picture[:, :h] = self._shares(query, key, visibility, scaling)
        mask = visibility.mask(targets, sources, value.device)
        return picture if mask is None else picture * mask

    def kernel(self) -> Tensor:
        """What multiplies, or is subtracted from, the tokens of a window: `[H', kernel_size]`."""
        return self.taps.softmax(dim=-1) if self.spec.op == "conv" and self.spec.softmax else self.taps

    def _shares(self, query: Tensor, key: Tensor, visibility: Visibility, scaling: float) -> Tensor:
        h = self.query_heads
        return dot_product_softmax(query[:, :h], key[:, :h], visibility.of_heads(h), scaling)

    def _mix(self, value: Tensor, targets: int, visibility: Visibility) -> Tensor:
        value = visibility.zero_unseen(value)
        if self.spec.op == "conv":
            return self.window.convolve(value, self.kernel(), targets, visibility)
        x = self.window.sources(value, targets, visibility)
        if self.spec.op == "shift_add":
            x = _per_token(self.shift, x)
        y = adder_window(x, self.taps)
        y = y - y.mean(dim=(1, 3), keepdim=True)
        return y * po2_scale_ste(self.output_scale).to(y.dtype).view(-1, 1, 1)

    def counts(self, batch: int, targets: int, sources: int) -> OpCounts:
        """The mixing of one half (or all) and the attention of the other."""
        e, size, h = self.head_dim, self.window.size, self.query_heads
        width = (self.heads - h) * e
        if self.spec.op == "conv":
            mixing = dense_linear_counts(targets * width, 1, size)
            if self.spec.softmax:
                mixing += softmax_counts(self.heads - h, size)
        else:
            centring = OpCounts(add=targets * (2 * width - 1), multiply=targets, shift=targets * width)
            mixing = adder_window_counts(targets * width, size) + centring
        if self.spec.op == "shift_add":
            mixing += self.shift.counts(targets)
        scores = dense_linear_counts(targets, sources, e) + OpCounts(multiply=targets * sources)
        attending = scores + softmax_counts(targets, sources) + dense_linear_counts(targets, e, sources)
        return (mixing + attending * h) * batch


def _first_taps(heads: int, size: int, here: int, softmax: bool) -> Tensor:
    """Kernels that look mostly at the target itself, so that a converted model starts from its own values."""
    taps = torch.zeros(heads, size)
    taps[:, here] = math.log(4 * size) if softmax else 1.0
    return taps


def _per_token(linear: nn.Module, x: Tensor) -> Tensor:
    """A layer over all heads' channels together, `[B, H, L, E]`."""
    heads = x.shape[1]
    y: Tensor = linear(x.transpose(1, 2).flatten(2))
    return y.unflatten(-1, (heads, -1)).transpose(1, 2)
