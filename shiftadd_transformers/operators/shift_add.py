"""What does ShiftAddNet's cascade of a shift layer and an adder layer compute?"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from .adder import adder_input_gradient, check_exponent_scalar, int8_forward, int8_weight
from .calling import autocast_like_linear, check_input, row_count, without_autocast
from .counts import quantize_grid_counts, shift_add_linear_counts
from .po2_format import Po2Format
from .shift import check_shift_weight, decode_weight


def shift_add_linear(
    x: Tensor,
    weight_packed: Tensor,
    weight_exponent: Tensor,
    adder_weight: Tensor,
    adder_exponent: Tensor,
    bits: int = 4,
    terms: int = 1,
    zero: bool = True,
    group_size: int = 0,
) -> Tensor:
    """A shift layer ``K -> N`` and an 8-bit adder layer ``N -> N``, with nothing between them.

    ``adder_linear_int8(shift_linear(x), adder_weight, adder_exponent)``, to the bit: the hidden row is rounded to the
    dtype of ``x`` before it is put on the adder's grid. ``x`` receives the adder's surrogate gradient, carried back
    through the shift weight.

    Args:
        x: floating ``[..., K]``.
        weight_packed: uint8 ``[N, ceil(K*bits/8)]``, the shift weight.
        weight_exponent: int8 ``[N, G]`` in -126..120.
        adder_weight: int8 ``[N, N]``, the adder's templates.
        adder_exponent: int8 scalar tensor, the adder's grid.
        bits: bits of one shift code.
        terms: powers of two per shift weight.
        zero: whether the shift format has a zero.
        group_size: shift weights of a row that share an exponent; 0 for one exponent per row.

    Returns:
        ``[..., N]`` in the dtype of ``x``.

    Raises:
        ValueError: shapes or dtypes do not fit, or there is no such format.

    Cost: that of ``shift_linear`` without a bias, plus ``2*M*N*N`` additions and ``M*N`` shifts for the adder, plus
    ``M*N`` shifts and roundings onto its grid; no multiplication.

    >>> packed, exponent = torch.tensor([[0x21]], dtype=torch.uint8), torch.zeros(1, 1, dtype=torch.int8)
    >>> template, grid = torch.tensor([[4]], dtype=torch.int8), torch.tensor(0, dtype=torch.int8)
    >>> shift_add_linear(torch.tensor([[3.0, 5.0]]), packed, exponent, template, grid, bits=4)
    tensor([[-9.]])

    References: ShiftAddNet (You et al., NeurIPS 2020).
    """
    check_input(x)
    check_shift_weight(x.shape[-1], weight_packed, weight_exponent, Po2Format(bits, terms, zero), group_size)
    n = weight_packed.shape[0]
    if not (adder_weight.dtype == torch.int8 and tuple(adder_weight.shape) == (n, n)):
        raise ValueError(f"adder_weight must be int8 ({n}, {n}), got {adder_weight.dtype} {tuple(adder_weight.shape)}")
    check_exponent_scalar(adder_exponent)
    return _shift_add_linear(
        autocast_like_linear(x),
        weight_packed,
        weight_exponent,
        adder_weight,
        adder_exponent,
        bits,
        terms,
        zero,
        group_size,
    )


@torch.library.custom_op("shiftadd::shift_add_linear", mutates_args=())
def _shift_add_linear(
    x: Tensor,
    weight_packed: Tensor,
    weight_exponent: Tensor,
    adder_weight: Tensor,
    adder_exponent: Tensor,
    bits: int,
    terms: int,
    zero: bool,
    group_size: int,
) -> Tensor:
    fmt = Po2Format(bits, terms, zero)
    with without_autocast(x):
        weight = decode_weight(weight_packed, weight_exponent, x.shape[-1], fmt, group_size, x.dtype)
        return int8_forward(F.linear(x, weight), adder_weight, adder_exponent)


@_shift_add_linear.register_fake
def _shift_add_linear_fake(
    x: Tensor,
    weight_packed: Tensor,
    weight_exponent: Tensor,
    adder_weight: Tensor,
    adder_exponent: Tensor,
    bits: int,
    terms: int,
    zero: bool,
    group_size: int,
) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight_packed.shape[0]))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:5])
    ctx.format, ctx.group_size = inputs[5:8], inputs[8]


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, packed, exponent, adder_weight, adder_exponent = ctx.saved_tensors
    # The hidden rows are computed again: a matrix product costs less than the adder, and keeping them costs memory.
    weight = decode_weight(packed, exponent, x.shape[-1], Po2Format(*ctx.format), ctx.group_size, x.dtype)
    templates = int8_weight(adder_weight, adder_exponent)
    grad_hidden = adder_input_gradient(grad, F.linear(x, weight), templates)
    return grad_hidden @ weight, None, None, None, None, None, None, None, None


_shift_add_linear.register_autograd(_backward, setup_context=_setup_context)


@register_flop_formula(torch.ops.shiftadd.shift_add_linear)
def _flops(
    x_shape: Any,
    packed_shape: Any,
    exponent_shape: Any,
    adder_shape: Any,
    adder_exponent_shape: Any,
    bits: int,
    terms: int,
    zero: bool,
    group_size: int,
    **_: Any,
) -> int:
    m, n, k = row_count(x_shape), packed_shape[0], x_shape[-1]
    counts = shift_add_linear_counts(m, n, k, terms, exponent_shape[1], scales=1)
    return (counts + quantize_grid_counts(m, n)).total
