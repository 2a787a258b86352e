"""What is a softmax over the sources that a target may see?"""

from __future__ import annotations

import torch
from torch import Tensor


def masked_softmax(scores: Tensor, allowed: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """Softmax over the last axis, in at least float32; 0 throughout for a target that sees nothing.

    Args:
        scores: floating ``[..., T, S]``.
        allowed: bool, broadcastable to ``scores``, True where a target may see a source; None where it may see all.
        bias: added to the scores, broadcastable to them.

    Returns:
        ``[..., T, S]`` in the dtype of the biased scores.

    >>> masked_softmax(torch.zeros(2, 2), torch.tensor([[True, False], [False, False]]))
    tensor([[1., 0.],
            [0., 0.]])
    """
    if bias is not None:
        scores = scores + bias
    if allowed is not None:
        scores = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min)
    shares = scores.softmax(dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32))
    return (shares if allowed is None else shares * allowed).to(scores.dtype)
