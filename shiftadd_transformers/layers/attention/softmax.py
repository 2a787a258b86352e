"""The softmax over scores that several cores end in."""

from __future__ import annotations

from torch import Tensor

from ...operators.softmax import masked_softmax
from .visibility import Visibility


def visible_softmax(scores: Tensor, visibility: Visibility) -> Tensor:
    """Softmax over the sources that a target sees; 0 throughout for a target that sees none.

    Args:
        scores: `[B, H, T, S]`.
        visibility: Mask and bias.
    """
    mask = visibility.mask(scores.shape[-2], scores.shape[-1], scores.device)
    return masked_softmax(scores, mask, visibility.bias)


def dot_product_softmax(query: Tensor, key: Tensor, visibility: Visibility, scaling: float) -> Tensor:
    """The probabilities of ordinary attention, `[B, H, T, S]`.

    Args:
        query: `[B, H, T, E]`.
        key: `[B, H, S, E]`.
        visibility: Mask and bias.
        scaling: What dot products are multiplied with.
    """
    return visible_softmax(query @ key.mT * scaling, visibility)
