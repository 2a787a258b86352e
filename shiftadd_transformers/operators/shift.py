"""What does a layer with power-of-two weights compute?

Each product ``x * w`` is one shift per term of the weight. Two exact semantics share the operator:

* *float* (``activation_bits=0``): decode the weight, which is exact, then ``F.linear``. A latent layer that calls
  ``F.linear(x, po2_round(w))`` gets the same bits.
* *integer* (``activation_bits=8``): rows of ``x`` become int8 codes (:func:`~.activation.quantize_rows_int8`). Per
  group of weights the sum of ``code * sign * magnitude`` is an exact integer, of at most
  ``7 + log2(top * group size)`` bits and a sign: more than 32 bits need a wider accumulator, never a wrapped one. It
  is converted to float32 (round to nearest even) and multiplied by ``2**exponent`` (exact). Groups are added in
  ascending order in float32, starting from 0; then come the row scale and the bias, one float32 rounding each; the
  result is converted to the dtype of ``x``.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from .activation import quantize_rows_int8
from .calling import as_rows, autocast_like_linear, check_bias, check_input, row_count, without_autocast
from .counts import quantize_rows_counts, shift_linear_counts
from .exponent_bits import power_of_two
from .packing import packed_width, unpack_codes
from .po2 import code_values, dequantize_codes
from .po2_format import Po2Format, group_count

_INT8_MAX = 127


def shift_linear(
    x: Tensor,
    weight_packed: Tensor,
    weight_exponent: Tensor,
    bias: Tensor | None = None,
    bits: int = 4,
    terms: int = 1,
    zero: bool = True,
    group_size: int = 0,
    activation_bits: int = 0,
) -> Tensor:
    """Linear map with packed power-of-two weights.

    ``y[m, n] = sum_k x[m, k] * sign[n, k] * magnitude[n, k] * 2**weight_exponent[n, k // group_size] + bias[n]``

    The gradients with respect to ``x`` and ``bias`` are those of the linear map; with ``activation_bits=8`` they pass
    the quantisation of ``x`` straight through. Under autocast ``x`` is cast as ``F.linear`` would.

    Args:
        x: floating ``[..., K]``.
        weight_packed: uint8 ``[N, ceil(K*bits/8)]``, see :mod:`~.packing`.
        weight_exponent: int8 ``[N, G]`` in -126..120.
        bias: floating ``[N]`` or None.
        bits: bits of one weight code.
        terms: powers of two per weight.
        zero: whether the format has a zero.
        group_size: weights of a row that share an exponent; 0 for one exponent per row.
        activation_bits: 0 to compute in floats, 8 for the integer semantics of the module docstring.

    Returns:
        ``[..., N]`` in the dtype of ``x``.

    Raises:
        ValueError: shapes or dtypes do not fit, or there is no such format.

    Cost: ``M*N*K*terms`` shifts, ``M*N*G`` shifts for the scales, ``M*N*(K*terms - 1)`` additions, ``M*N`` more with
    a bias; no multiplication. 8-bit activations add ``M*(K + 1 + N)`` multiplications and ``M*(K - 1)`` comparisons
    to quantise rows and to scale back.

    >>> from shiftadd_transformers.operators import Po2Format, fit_exponent, pack_codes, quantize_codes
    >>> weight, fmt = torch.tensor([[1.0, -0.5, 0.0, 2.0]]), Po2Format(4)
    >>> exponent = fit_exponent(weight, fmt)
    >>> packed = pack_codes(quantize_codes(weight, exponent, fmt), bits=4)
    >>> shift_linear(torch.tensor([1.0, 2.0, 3.0, 4.0]), packed, exponent, bits=4)
    tensor([8.])

    References: DeepShift (Elhoushi et al., 2021); APoT (Li et al., 2020) for several terms. Differs: an explicit
    power-of-two scale per row or group, so that weights above 1 are representable.
    """
    check_input(x)
    check_shift_weight(x.shape[-1], weight_packed, weight_exponent, Po2Format(bits, terms, zero), group_size)
    check_bias(bias, weight_packed.shape[0])
    if activation_bits not in (0, 8):
        raise ValueError(f"activation_bits must be 0 (float) or 8, got {activation_bits}")
    x = autocast_like_linear(x)
    return _shift_linear(x, weight_packed, weight_exponent, bias, bits, terms, zero, group_size, activation_bits)


def check_shift_weight(k: int, packed: Tensor, exponent: Tensor, fmt: Po2Format, group_size: int) -> None:
    """Raise unless codes and exponents describe an ``[N, k]`` weight."""
    width = packed_width(k, fmt.bits)
    if not (packed.dtype == torch.uint8 and packed.ndim == 2 and packed.shape[1] == width):
        raise ValueError(
            f"weight_packed must be uint8 [N, {width}] for x of {k} features and bits={fmt.bits}, "
            f"got {packed.dtype} {tuple(packed.shape)}: check the last axis of x and the bits"
        )
    if group_size < 0:
        raise ValueError(f"group_size must be 0 (one exponent per row) or positive, got {group_size}")
    expected = (packed.shape[0], group_count(k, group_size or None))
    if not (exponent.dtype == torch.int8 and tuple(exponent.shape) == expected):
        raise ValueError(
            f"weight_exponent must be int8 {expected} for group_size={group_size}, "
            f"got {exponent.dtype} {tuple(exponent.shape)}"
        )


def decode_weight(
    packed: Tensor, exponent: Tensor, k: int, fmt: Po2Format, group_size: int, dtype: torch.dtype
) -> Tensor:
    """The weight ``[N, k]`` that packed codes stand for."""
    codes = unpack_codes(packed, fmt.bits, k)
    return dequantize_codes(codes, exponent, fmt, group_size or None, dtype)


@torch.library.custom_op("shiftadd::shift_linear", mutates_args=())
def _shift_linear(
    x: Tensor,
    weight_packed: Tensor,
    weight_exponent: Tensor,
    bias: Tensor | None,
    bits: int,
    terms: int,
    zero: bool,
    group_size: int,
    activation_bits: int,
) -> Tensor:
    fmt = Po2Format(bits, terms, zero)
    with without_autocast(x):
        if activation_bits:
            return _integer_forward(x, weight_packed, weight_exponent, bias, fmt, group_size)
        weight = decode_weight(weight_packed, weight_exponent, x.shape[-1], fmt, group_size, x.dtype)
        return F.linear(x, weight, None if bias is None else bias.to(x.dtype)).contiguous()


def _integer_forward(
    x: Tensor, packed: Tensor, exponent: Tensor, bias: Tensor | None, fmt: Po2Format, group_size: int
) -> Tensor:
    k = x.shape[-1]
    codes, scale = quantize_rows_int8(as_rows(x))
    weight, size = unpack_codes(packed, fmt.bits, k), group_size or max(k, 1)
    total = torch.zeros(codes.shape[0], packed.shape[0], dtype=torch.float32, device=x.device)
    for group, start in enumerate(range(0, k, size)):
        columns = slice(start, start + size)
        sums = _exact_product(codes[:, columns], weight[:, columns], fmt)
        total = total + sums * power_of_two(exponent[:, group], torch.float32)
    y = total * scale
    y = y if bias is None else y + bias.to(torch.float32)
    return y.to(x.dtype).view(*x.shape[:-1], packed.shape[0])


def _exact_product(codes: Tensor, weight_codes: Tensor, fmt: Po2Format) -> Tensor:
    """Integer product ``[M, N]``, rounded once to float32.

    A float matrix product of integers is exact in any order of summation as long as the largest possible sum fits
    the mantissa, and float products are fast on every device.
    """
    bound = _INT8_MAX * fmt.top * codes.shape[1]
    exact = torch.float32 if bound <= 1 << 24 else torch.float64
    return (codes.to(exact) @ code_values(weight_codes, fmt, exact).t()).to(torch.float32)


@_shift_linear.register_fake
def _shift_linear_fake(
    x: Tensor,
    weight_packed: Tensor,
    weight_exponent: Tensor,
    bias: Tensor | None,
    bits: int,
    terms: int,
    zero: bool,
    group_size: int,
    activation_bits: int,
) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight_packed.shape[0]))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, packed, exponent, bias, bits, terms, zero, group_size, _ = inputs
    ctx.save_for_backward(packed, exponent)
    ctx.k, ctx.format, ctx.group_size = x.shape[-1], (bits, terms, zero), group_size
    ctx.bias_dtype = None if bias is None else bias.dtype


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    packed, exponent = ctx.saved_tensors
    grad_x = grad_bias = None
    if ctx.needs_input_grad[0]:
        fmt = Po2Format(*ctx.format)
        grad_x = grad @ decode_weight(packed, exponent, ctx.k, fmt, ctx.group_size, grad.dtype)
    if ctx.needs_input_grad[3]:
        grad_bias = as_rows(grad).sum(0).to(ctx.bias_dtype)
    return grad_x, None, None, grad_bias, None, None, None, None, None


_shift_linear.register_autograd(_backward, setup_context=_setup_context)


@register_flop_formula(torch.ops.shiftadd.shift_linear)
def _flops(
    x_shape: Any,
    packed_shape: Any,
    exponent_shape: Any,
    bias_shape: Any,
    bits: int,
    terms: int,
    zero: bool,
    group_size: int,
    activation_bits: int,
    **_: Any,
) -> int:
    m, n, k = row_count(x_shape), packed_shape[0], x_shape[-1]
    counts = shift_linear_counts(m, n, k, terms, bias_shape is not None, exponent_shape[1])
    return (counts + quantize_rows_counts(m, k, n)).total if activation_bits else counts.total
