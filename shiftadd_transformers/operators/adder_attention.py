"""What is attention whose scores are distances?

``y[t] = sum_s softmax_s(-scale * ||q[t] - k[s]||_1 + bias[t, s]) * v[s]``, head by head and a stretch of targets at a
time: scores of all heads never exist together, and no ``[T, S, E]`` tensor at all. The backward pass computes scores
again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from .adder import adder_input_gradient
from .calling import without_autocast
from .counts import adder_linear_counts, dense_linear_counts, softmax_counts
from .exponent_bits import power_of_two

_SCORES = 1 << 20  # of one stretch of targets


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

    The distances are those of :func:`~.adder.adder_linear`, or of :func:`~.adder.adder_linear_int8` where a grid is
    given. Queries and keys receive the surrogate gradient of an adder's input, ``clamp(k - q, -1, 1)``, whichever of
    the two computed the distances; value, scale and bias receive the true one. Under autocast nothing is cast:
    distances need the wide type.

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
    shape = (*query.shape[:3], key.shape[2])
    allowed = None if allowed is None else allowed.expand(shape)
    bias = None if bias is None else bias.to(query.dtype).expand(shape)
    return _adder_attention(query, key, value, scale, allowed, bias, exponent)


def adder_attention_weights(
    query: Tensor,
    key: Tensor,
    scale: Tensor,
    allowed: Tensor | None = None,
    bias: Tensor | None = None,
    exponent: Tensor | None = None,
) -> Tensor:
    """The probabilities of :func:`adder_attention`, ``[B, H, T, S]``: all at once, for looking at."""
    shape = (*query.shape[:3], key.shape[2])
    result = query.new_empty(shape)
    allowed = None if allowed is None else allowed.expand(shape)
    bias = None if bias is None else bias.expand(shape)
    for b, h, rows in _stretches(query, key):
        part = _Scores(query, key, scale, allowed, bias, exponent, (b, h, rows))
        result[b, h, rows] = part.probabilities().to(query.dtype)
    return result


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
        for b, h, rows in _stretches(query, key):
            part = _Scores(query, key, scale, allowed, bias, exponent, (b, h, rows))
            result[b, h, rows] = (part.probabilities() @ value[b, h].to(part.work)).to(value.dtype)
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
    to_query, to_scale = torch.zeros_like(query), torch.zeros_like(scale, dtype=work)
    to_key, to_value = (torch.zeros_like(t, dtype=work) for t in (key, value))
    to_bias = query.new_zeros(bias.shape if with_bias and bias is not None else 0)
    with without_autocast(query):
        for b, h, rows in _stretches(query, key):
            part = _Scores(query, key, scale, allowed, bias, exponent, (b, h, rows))
            shares, here = part.probabilities(), grad[b, h, rows].to(work)
            to_value[b, h] += shares.mT @ here
            to_shares = here @ value[b, h].to(work).mT
            to_scores = shares * (to_shares - (to_shares * shares).sum(-1, keepdim=True))
            if with_bias:
                to_bias[b, h, rows] = to_scores.to(to_bias.dtype)
            to_scale[h] += (to_scores * part.distances).sum()
            to_distance = to_scores * scale[h].to(work)
            q, k = query[b, h, rows].contiguous(), key[b, h].contiguous()
            to_query[b, h, rows] = adder_input_gradient(to_distance.to(q.dtype), q, k)
            to_key[b, h] += adder_input_gradient(to_distance.mT.contiguous().to(k.dtype), k, q)
    return to_query, to_key.to(key.dtype), to_value.to(value.dtype), to_scale.to(scale.dtype), to_bias


class _Scores:
    """Distances and probabilities of one stretch of targets in one head."""

    def __init__(
        self,
        query: Tensor,
        key: Tensor,
        scale: Tensor,
        allowed: Tensor | None,
        bias: Tensor | None,
        exponent: Tensor | None,
        place: tuple[int, int, slice],
    ) -> None:
        b, h, rows = place
        self.work = torch.promote_types(query.dtype, torch.float32)
        q, k = query[b, h, rows].to(self.work), key[b, h].to(self.work)
        if exponent is None:
            self.distances = torch.ops.shiftadd.adder_linear(q.contiguous(), k.contiguous())
        else:
            self.distances = _grid_distances(q, k, exponent[h])
        self.scale = scale[h].to(self.work)
        self.allowed = None if allowed is None else allowed[b, h, rows]
        self.bias = None if bias is None else bias[b, h, rows]

    def probabilities(self) -> Tensor:
        """Softmax over the sources, ``[T, S]``; zeros where a target sees none."""
        scores = self.distances * self.scale
        if self.bias is not None:
            scores = scores + self.bias
        if self.allowed is None:
            return scores.softmax(dim=-1)
        scores = scores.masked_fill(~self.allowed, torch.finfo(scores.dtype).min)
        return scores.softmax(dim=-1) * self.allowed


def _grid_distances(query: Tensor, key: Tensor, exponent: Tensor) -> Tensor:
    codes = (key * power_of_two(-exponent.to(torch.int32), key.dtype)).round().clamp(-127, 127).to(torch.int8)
    distances: Tensor = torch.ops.shiftadd.adder_linear_int8(query.contiguous(), codes, exponent)
    return distances


def _stretches(query: Tensor, key: Tensor) -> Iterator[tuple[int, int, slice]]:
    """Batch, head, and targets whose scores are small enough to hold."""
    batch, heads, targets, sources = *query.shape[:3], key.shape[2]
    step = max(1, _SCORES // max(sources, 1))
    for b in range(batch):
        for h in range(heads):
            for start in range(0, targets, step):
                yield b, h, slice(start, min(start + step, targets))


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
