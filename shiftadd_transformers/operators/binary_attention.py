"""What is linear attention whose queries and keys are one bit per element?

``y[t] = normalise(own[t] / 2 + 1/pi * sum_e c(q[t, e]) * sum_s c(k[s, e]) * v[s])`` with codes ``c(x)`` of 0 and 1, or
of -1 and 1. A code selects whether a value is added, so both sums are additions, and their number grows with the tokens
and not with their square. It is the first order of the angular kernel ``1 - angle/pi`` around orthogonal codes, with
rows normalised to length 1.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from .calling import without_autocast
from .counts import SMOOTH, OpCounts, matadd_counts

SMALLEST_NORM = 1e-6
"""Shorter rows are divided by this: a row of zeros stays one."""


def binary_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    own: Tensor,
    query_threshold: Tensor,
    key_threshold: Tensor,
    binary: bool = True,
) -> Tensor:
    """Mix values by the codes of queries and keys.

    An element is coded by whether it exceeds its head's threshold: ``c(x) = 1[x > threshold]``, or the sign that goes
    with it. Sums of float16 and bfloat16 are taken in float32. There is no gradient; training codes with
    :func:`~.ste.straight_through` and multiplies matrices.

    Args:
        query: floating ``[B, H, T, E]``.
        key: ``[B, H, S, E]`` of the same dtype.
        value: ``[B, H, S, F]`` of the same dtype; a row of zeros leaves its source out.
        own: ``[B, H, T, F]`` of the same dtype, the part of the kernel that does not depend on codes.
        query_threshold: floating ``[H]``.
        key_threshold: floating ``[H]``.
        binary: codes are 0 and 1; otherwise -1 and 1.

    Returns:
        ``[B, H, T, F]`` in the dtype of ``value``; rows have length 1, or are zero.

    Raises:
        ValueError: shapes do not fit.

    Cost: see :func:`binary_attention_counts`; the sums over codes multiply nothing.

    >>> x = torch.tensor([[[[1.0, -1.0], [1.0, 1.0]]]])
    >>> zero = torch.zeros(1)
    >>> binary_attention(x, x, torch.tensor([[[[0.0, 1.0], [0.0, 2.0]]]]), torch.zeros(1, 1, 2, 2), zero, zero)
    tensor([[[[0., 1.],
              [0., 1.]]]])

    References: EcoFormer (Liu et al., NeurIPS 2022); ShiftAddViT (You et al., NeurIPS 2023). Differs: the norm of a row
    has a floor.
    """
    _check(query, key, value, own, query_threshold, key_threshold)
    return _binary_attention(query, key, value, own, query_threshold, key_threshold, binary)


def combined(own: Tensor, mixed: Tensor) -> Tensor:
    """Rows of ``own / 2 + mixed / pi``, normalised."""
    return F.normalize(own * 0.5 + mixed * (1 / math.pi), dim=-1, eps=SMALLEST_NORM)


def combined_counts(targets: int, values: int) -> OpCounts:
    """Halving, scaling, adding, the squares and their sum, an inverse root, and the scaling of a row.

    >>> combined_counts(1, 8)
    OpCounts(multiply=25, add=16, shift=8, lookup=1)
    """
    return (OpCounts(multiply=3 * values, add=2 * values - 1, shift=values) + SMOOTH) * targets


def binary_attention_counts(targets: int, sources: int, width: int, values: int, binary: bool = True) -> OpCounts:
    """One head: a comparison per code, two MatAdds, and :func:`combined_counts`.

    A code of 0 adds nothing, so codes of 0 and 1 cost half of what signs do, with half of them set.

    >>> binary_attention_counts(10, 10, 8, 8, binary=False).add
    1456
    """
    products = matadd_counts(width, values, sources) + matadd_counts(targets, values, width)
    additions = OpCounts(add=(targets + sources) * width + products.add // (2 if binary else 1))
    return additions + combined_counts(targets, values)


@torch.library.custom_op("shiftadd::binary_attention", mutates_args=())
def _binary_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    own: Tensor,
    query_threshold: Tensor,
    key_threshold: Tensor,
    binary: bool,
) -> Tensor:
    work = torch.promote_types(value.dtype, torch.float32)
    q, k = (codes(x, t, binary, work) for x, t in ((query, query_threshold), (key, key_threshold)))
    with without_autocast(value):
        return combined(own.to(work), q @ (k.mT @ value.to(work))).to(value.dtype)


def codes(x: Tensor, threshold: Tensor, binary: bool, dtype: torch.dtype) -> Tensor:
    """0 or 1, or -1 or 1, for every element of ``x [B, H, S, E]``."""
    above = (x > threshold.to(x.dtype).view(-1, 1, 1)).to(dtype)
    return above if binary else above * 2 - 1


@_binary_attention.register_fake
def _fake(query: Tensor, key: Tensor, value: Tensor, *_: Any) -> Tensor:
    return value.new_empty(*query.shape[:3], value.shape[-1])


@register_flop_formula(torch.ops.shiftadd.binary_attention)
def _flops(query_shape: Any, key_shape: Any, value_shape: Any, *others: Any, **_: Any) -> int:
    (b, h, t, e), s, f, binary = query_shape, key_shape[2], value_shape[3], others[3]
    return binary_attention_counts(t, s, e, f, binary).total * b * h


def _check(query: Tensor, key: Tensor, value: Tensor, own: Tensor, *thresholds: Tensor) -> None:
    b, h, t, e = query.shape
    fits = key.shape[:2] == (b, h) and key.shape[3] == e and value.shape[:3] == key.shape[:3]
    fits = fits and own.shape == (b, h, t, value.shape[3])
    if not fits or any(t.shape != (h,) for t in thresholds):
        raise ValueError(
            "query must be [B, H, T, E], key [B, H, S, E], value [B, H, S, F], own [B, H, T, F], thresholds [H], got "
            + ", ".join(str(tuple(t.shape)) for t in (query, key, value, own, *thresholds))
        )
