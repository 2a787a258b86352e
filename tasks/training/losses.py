"""Which loss does a task minimise without a teacher?"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

IGNORED = -100  # label of padding, left out of the loss


class SmoothedCrossEntropy:
    """Cross entropy per label, with label smoothing while training and without it in validation.

    Args:
        smoothing: probability mass spread over the classes.
    """

    def __init__(self, smoothing: float) -> None:
        self.smoothing = smoothing

    def __call__(self, outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        """Mean loss over the labels of the (accumulated) batch.

        Args:
            outputs: with `logits` `[..., C]`.
            labels: class numbers `[...]`, padding is -100; or probabilities `[..., C]` of mixed examples.
            num_items_in_batch: values of `labels` over all accumulated batches and processes.
        """
        logits = outputs.logits.flatten(0, -2)
        mixed = labels.is_floating_point()
        total = F.cross_entropy(
            logits,
            labels.flatten(0, -2) if mixed else labels.flatten(),
            ignore_index=IGNORED,
            reduction="sum",
            label_smoothing=self.smoothing if torch.is_grad_enabled() else 0.0,
        )
        count = num_items_in_batch if num_items_in_batch is not None else (labels != IGNORED).sum()
        return total * (labels.shape[-1] if mixed else 1) / count
