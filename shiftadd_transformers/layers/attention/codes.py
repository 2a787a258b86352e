"""How do queries and keys become one bit per element, and how does training see the bits?"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...operators.binary_attention import codes
from ...operators.ste import straight_through
from .running import RunningMean


class Binarizer(nn.Module):
    """One bit per element: whether it exceeds the running mean of its head.

    Attributes:
        threshold: The running mean.
        variance: Running mean of the squared distance to it, which scales the gradient.

    References:
        You et al., ShiftAddViT, NeurIPS 2023. Differs: the threshold is a running mean per head, not the mean of the
        whole batch; elements are compared as they are, since normalising a token does not change its signs.
    """

    def __init__(self, heads: int, momentum: float) -> None:
        super().__init__()
        self.threshold = RunningMean(heads, momentum)
        self.variance = RunningMean(heads, momentum, start=1.0)

    def follow(self, x: Tensor, seen: Tensor | None) -> None:
        """Let threshold and variance follow `x [B, H, S, E]` in training; padding (not `seen`) has no say."""
        if not self.training:
            return
        self.threshold.follow(x.detach(), seen)
        self.variance.follow((x.detach() - self.threshold.per_head(x.dtype)).square(), seen)

    def forward(self, x: Tensor, binary: bool) -> Tensor:
        """0 or 1, or −1 or 1. The gradient passes elements within a standard deviation of the threshold."""
        value = codes(x.detach(), self.threshold.mean, binary, x.dtype)
        if not (torch.is_grad_enabled() and x.requires_grad):
            return value
        deviation = self.variance.per_head(torch.float32).clamp_min(1e-12).sqrt().to(x.dtype)
        distance = ((x - self.threshold.per_head(x.dtype)) / deviation).clamp(-1, 1)
        return straight_through(distance * 0.5 if binary else distance, value)
