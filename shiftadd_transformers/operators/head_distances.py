"""How far are the queries of each head from its keys?

``y[n, t, s] = -sum_e |q[n, t, e] - k[n, s, e]|``: the adder's distance for many small problems at once.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .adder import adder_input_gradient, l1_distance

TILE = 1 << 19
"""Differences that are held at once: 2 MiB in float32."""


@torch.library.custom_op("shiftadd::head_distances", mutates_args=())
def head_distances(query: Tensor, key: Tensor) -> Tensor:
    """Negative L1 distances, head by head.

    There is no gradient; see :func:`head_distance_gradients`.

    Args:
        query: float32 or float64 ``[n, T, E]``.
        key: the same type, ``[n, S, E]``.

    Returns:
        ``[n, T, S]``, at most 0.

    >>> head_distances(torch.tensor([[[1.0], [4.0]]]), torch.tensor([[[0.0]]]))
    tensor([[[-1.],
             [-4.]]])
    """
    result = query.new_empty(*query.shape[:2], key.shape[1])
    for heads in small_groups(query, key):
        result[heads] = (query[heads].unsqueeze(2) - key[heads].unsqueeze(1)).abs_().sum(-1).neg_()
    if not _fits(query, key):
        for head, (q, k) in enumerate(zip(query, key, strict=True)):
            result[head] = l1_distance(q, k, query.dtype).neg_()
    return result


def head_distance_gradients(grad: Tensor, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """What queries and keys receive for ``grad [n, T, S]``: AdderNet's surrogate ``clamp(k - q, -1, 1)`` for both.

    Args:
        grad: of the distances.
        query: ``[n, T, E]``.
        key: ``[n, S, E]``.

    Returns:
        gradients of the shapes of ``query`` and ``key``.
    """
    to_query, to_key = torch.zeros_like(query), torch.zeros_like(key)
    for heads in small_groups(query, key):
        clamped = (key[heads].unsqueeze(1) - query[heads].unsqueeze(2)).clamp_(-1, 1)
        to_query[heads] = (grad[heads].unsqueeze(2) @ clamped).squeeze(2)
        to_key[heads] = -(grad[heads].mT.unsqueeze(2) @ clamped.transpose(1, 2)).squeeze(2)
    if not _fits(query, key):
        for head, (g, q, k) in enumerate(zip(grad, query, key, strict=True)):
            to_query[head] = adder_input_gradient(g.contiguous(), q, k)
            to_key[head] = adder_input_gradient(g.mT.contiguous(), k, q)
    return to_query, to_key


def small_groups(query: Tensor, key: Tensor) -> Iterator[slice]:
    """Heads whose differences fit a tile together; none if those of a single head do not."""
    if _fits(query, key):
        together = max(1, TILE // max(_differences(query, key), 1))
        for first in range(0, len(query), together):
            yield slice(first, first + together)


def _differences(query: Tensor, key: Tensor) -> int:
    return query.shape[1] * key.shape[1] * query.shape[2]


def _fits(query: Tensor, key: Tensor) -> bool:
    return _differences(query, key) <= TILE


@head_distances.register_fake
def _fake(query: Tensor, key: Tensor) -> Tensor:
    return query.new_empty(*query.shape[:2], key.shape[1])
