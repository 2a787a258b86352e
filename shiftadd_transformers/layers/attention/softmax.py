"""The softmax over scores that several cores end in."""

from __future__ import annotations

import torch
from torch import Tensor

from .visibility import Visibility


def masked_softmax(scores: Tensor, visibility: Visibility) -> Tensor:
    """Softmax over the sources that a target sees; 0 throughout for a target that sees none.

    Args:
        scores: `[B, H, T, S]`.
        visibility: Mask and bias.
    """
    if visibility.bias is not None:
        scores = scores + visibility.bias
    mask = visibility.mask(scores.shape[-2], scores.shape[-1], scores.device)
    if mask is None:
        return scores.softmax(dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(scores.dtype)
    lowest = torch.finfo(scores.dtype).min
    shares = scores.masked_fill(~mask, lowest).softmax(dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32))
    return (shares * mask).to(scores.dtype)
