"""What does a head remember of the batches that it was trained on?"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RunningMean(nn.Module):
    """A mean per head, followed in training and fixed in evaluation.

    Taking the mean of the batch at hand, as the released binary attentions do, makes an image's output depend on the
    images beside it.

    Attributes:
        mean: float32 `[H]`.
        batches: How many batches it has seen; the first one sets it.
    """

    mean: Tensor
    batches: Tensor

    def __init__(self, heads: int, momentum: float, start: float = 0.0) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("mean", torch.full((heads,), start))
        self.register_buffer("batches", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def follow(self, values: Tensor, seen: Tensor | None) -> None:
        """Move towards the mean of `values [B, H, S, E]` over everything but heads, in training.

        Args:
            values: What to take the mean of.
            seen: bool `[B, 1, S]`, False for padding.
        """
        if not self.training or _recomputing():
            return
        per_token = values.float().mean(dim=-1)
        if seen is None:
            batch = per_token.mean(dim=(0, 2))
        else:
            kept = seen.to(per_token.dtype)
            batch = (per_token * kept).sum(dim=(0, 2)) / kept.sum().clamp_min(1)
        step = torch.where(self.batches == 0, 1.0, self.momentum)
        self.mean.lerp_(batch.to(self.mean.dtype), step.to(self.mean.dtype))
        self.batches.add_(1)

    def per_head(self, dtype: torch.dtype) -> Tensor:
        """The means as `[H, 1, 1]`."""
        return self.mean.to(dtype).view(-1, 1, 1)


def _recomputing() -> bool:
    """Whether activation checkpointing repeats a forward, which must then be the same function as the first time."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1
