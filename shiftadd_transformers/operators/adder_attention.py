"""What is attention whose scores are distances?

``y[t] = sum_s softmax_s(-scale * ||q[t] - k[s]||_1 + bias[t, s]) * v[s]``, a few heads at a time, or a stretch of
targets of one: the scores of all heads never exist together. The backward pass computes scores again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from .calling import without_autocast
from .counts import adder_linear_counts, dense_linear_counts, softmax_counts
from .grid import on_grid
from .head_distances import head_distance_gradients
from .softmax import masked_softmax

_SCORES = 1 << 20  # that are held at once


def adder_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: Tensor,
    allowed: Tensor | None = None,
    bias: Tensor | None = None,
    exponent: Tensor | None = None,
) -> Tensor:
    """Softmax attention over negative L1 distances.

    Where a grid is given, distances are those of 8-bit integers, as in :func:`~.adder.adder_linear_int8`. Queries and
    keys receive the surrogate gradient of an adder's input, ``clamp(k - q, -1, 1)``, grid or not; value, scale and bias
    receive the true one. Under autocast nothing is cast: distances need the wide type.

    Args:
        query: floating ``[B, H, T, E]``.
        key: ``[B, H, S, E]`` of the same dtype.
        value: ``[B, H, S, F]`` of the same dtype.
        scale: ``[H]``; powers of two make it a shift.
        allowed: bool, broadcastable to ``[B, H, T, S]``, True where a target may see a source. A target that sees
            none gets zeros.
        bias: floating, broadcastable to ``[B, H, T, S]``.
        exponent: int8 ``[H]``: queries and keys of a head are put on the multiples of ``2**exponent`` within ±127.

    Returns:
        ``[B, H, T, F]``.

    Raises:
        ValueError: shapes do not fit.

    Cost: per head ``2*T*S*E`` additions and ``T*S`` shifts for the scores, a softmax, and the dense product of
    probabilities and values.

    >>> x = torch.tensor([[[[0.0], [8.0]]]])
    >>> adder_attention(x, x, x, torch.ones(1)).round(decimals=2).flatten()
    tensor([0., 8.])

    References: Adder attention for vision transformer (Shu et al., NeurIPS 2021).
    """
    _check(query, key, value, scale)
    return _adder_attention(query, key, value, scale, *_per_score(query, key, allowed, bias), exponent)


def adder_attention_weights(
    query: Tensor,
    key: Tensor,
    scale: Tensor,
    allowed: Tensor | None = None,
    bias: Tensor | None = None,
    exponent: Tensor | None = None,
) -> Tensor:
    """The probabilities of :func:`adder_attention`, ``[B, H, T, S]``: all at once, for looking at."""
    result = query.new_empty(*query.shape[:3], key.shape[2])
    for part in _parts(query, key, key, scale, *_per_score(query, key, allowed, bias), exponent):
        part.put(result, part.probabilities())
    return result


def _per_score(
    query: Tensor, key: Tensor, allowed: Tensor | None, bias: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """Mask and bias as views ``[B, H, T, S]``."""
    shape = (*query.shape[:3], key.shape[2])
    allowed = None if allowed is None else allowed.expand(shape)
    return allowed, None if bias is None else bias.to(query.dtype).expand(shape)


@torch.library.custom_op("shiftadd::adder_attention", mutates_args=())
def _adder_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: Tensor,
    allowed: Tensor | None,
    bias: Tensor | None,
    exponent: Tensor | None,
) -> Tensor:
    result = value.new_empty(*query.shape[:3], value.shape[-1])
    with without_autocast(query):
        for part in _parts(query, key, value, scale, allowed, bias, exponent):
            part.put(result, part.probabilities() @ part.value)
    return result


@torch.library.custom_op("shiftadd::adder_attention_gradient", mutates_args=())
def _adder_attention_gradient(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: Tensor,
    allowed: Tensor | None,
    bias: Tensor | None,
    exponent: Tensor | None,
    with_bias: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients for query, key, value, scale and bias (empty unless asked for), scores computed anew."""
    work = torch.promote_types(query.dtype, torch.float32)
    to_query, to_key, to_value = (torch.zeros(t.shape, dtype=work, device=t.device) for t in (query, key, value))
    to_scale = torch.zeros(query.shape[:2], dtype=work, device=query.device)
    to_bias = query.new_zeros(bias.shape if with_bias and bias is not None else 0)
    with without_autocast(query):
        for part in _parts(query, key, value, scale, allowed, bias, exponent):
            shares, here = part.probabilities(), part.of(grad)
            part.whole(to_value).add_(shares.mT @ here)
            to_shares = here @ part.value.mT
            to_scores = shares * (to_shares - (to_shares * shares).sum(-1, keepdim=True))
            if with_bias:
                part.put(to_bias, to_scores)
            to_scale.view(-1)[part.heads] += (to_scores * part.distances).sum(dim=(-2, -1))
            to_q, to_k = head_distance_gradients(to_scores * part.scale, part.query, part.key)
            part.put(to_query, to_q)
            part.whole(to_key).add_(to_k)
    back = (to_query.to(query.dtype), to_key.to(key.dtype), to_value.to(value.dtype), to_scale.sum(0).to(scale.dtype))
    return *back, to_bias


class _Part:
    """Distances and probabilities of some targets in some heads, which are counted through all images.

    Attributes:
        heads: Which of the ``B * H`` heads, ``n`` of them.
        rows: Which targets.
        query: ``[n, t, E]`` in at least float32; ``key`` and ``value`` are ``[n, S, ...]``, ``scale`` ``[n, 1, 1]``.
        allowed: ``[n, t, S]`` or None, and so is ``bias``.
        distances: ``[n, t, S]``, at most 0.
    """

    def __init__(
        self, heads: slice, rows: slice, query: Tensor, key: Tensor, value: Tensor, scale: Tensor, grid: Tensor | None
    ) -> None:
        self.heads, self.rows = heads, rows
        self.work = torch.promote_types(query.dtype, torch.float32)
        self.query, self.key, self.value = (t.to(self.work) for t in (query[:, rows], key, value))
        self.scale = scale.to(self.work).view(-1, 1, 1)
        self.allowed: Tensor | None = None
        self.bias: Tensor | None = None
        operands = [self.query, self.key]
        if grid is not None:
            operands = [on_grid(t, grid.view(-1, 1, 1)) for t in operands]
        self.distances: Tensor = torch.ops.shiftadd.head_distances(*(t.contiguous() for t in operands))

    def probabilities(self) -> Tensor:
        """Softmax over the sources, ``[n, t, S]``; zeros where a target sees none."""
        return masked_softmax(self.distances * self.scale, self.allowed, self.bias)

    def of(self, tensor: Tensor) -> Tensor:
        """This part of ``[B, H, T, ...]``."""
        return tensor.flatten(0, 1)[self.heads, self.rows].to(self.work)

    def whole(self, tensor: Tensor) -> Tensor:
        """These heads of a compact ``[B, H, S, ...]``, to be added to."""
        return tensor.view(-1, *tensor.shape[2:])[self.heads]

    def put(self, tensor: Tensor, values: Tensor) -> None:
        """Write this part of a compact ``[B, H, T, ...]``."""
        tensor.view(-1, *tensor.shape[2:])[self.heads, self.rows] = values.to(tensor.dtype)


def _parts(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: Tensor,
    allowed: Tensor | None,
    bias: Tensor | None,
    exponent: Tensor | None,
) -> Iterator[_Part]:
    """As many heads, or as many targets of one, as may hold their scores at once."""
    (batch, heads, targets, _), sources = query.shape, key.shape[2]
    together = max(1, _SCORES // max(targets * sources, 1))
    rows = max(1, min(targets, _SCORES // max(sources, 1)))
    q, k, v = (t.flatten(0, 1) for t in (query, key, value))
    for first in range(0, batch * heads, together):
        group = slice(first, min(first + together, batch * heads))
        index = torch.arange(group.start, group.stop, device=query.device)
        grid = None if exponent is None else exponent[index % heads]
        for start in range(0, targets, rows):
            stretch = slice(start, min(start + rows, targets))
            part = _Part(group, stretch, q[group], k[group], v[group], scale[index % heads], grid)
            part.allowed = _picked(allowed, index, heads, stretch)
            part.bias = _picked(bias, index, heads, stretch)
            yield part


def _picked(tensor: Tensor | None, index: Tensor, heads: int, rows: slice) -> Tensor | None:
    """Some heads of an expanded ``[B, H, T, S]``, of which no copy is made as a whole."""
    return None if tensor is None else tensor[index // heads, index % heads, rows]


def _check(query: Tensor, key: Tensor, value: Tensor, scale: Tensor) -> None:
    b, h, _, e = query.shape
    if key.shape[:2] != (b, h) or key.shape[3] != e or value.shape[:3] != key.shape[:3] or scale.shape != (h,):
        raise ValueError(
            "query must be [B, H, T, E], key [B, H, S, E], value [B, H, S, F] and scale [H], got "
            + ", ".join(str(tuple(t.shape)) for t in (query, key, value, scale))
        )


@_adder_attention.register_fake
def _fake(query: Tensor, key: Tensor, value: Tensor, *_: Any) -> Tensor:
    return value.new_empty(*query.shape[:3], value.shape[-1])


@_adder_attention_gradient.register_fake
def _gradient_fake(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: Tensor,
    allowed: Any,
    bias: Any,
    exponent: Any,
    with_bias: bool,
) -> tuple[Tensor, ...]:
    to_bias = query.new_empty(bias.shape if with_bias and bias is not None else 0)
    return (*(torch.empty_like(t) for t in (query, key, value, scale)), to_bias)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    with_bias = ctx.needs_input_grad[5]
    *parts, to_bias = _adder_attention_gradient(grad, *ctx.saved_tensors, with_bias)
    return *parts, None, to_bias if with_bias else None, None


_adder_attention.register_autograd(_backward, setup_context=_setup_context)


@register_flop_formula(torch.ops.shiftadd.adder_attention)
def _flops(query_shape: Any, key_shape: Any, value_shape: Any, *_: Any, **__: Any) -> int:
    (b, h, t, e), s, f = query_shape, key_shape[2], value_shape[3]
    per_head = adder_linear_counts(t, s, e, scales=1) + softmax_counts(t, s) + dense_linear_counts(t, f, s)
    return per_head.total * b * h
