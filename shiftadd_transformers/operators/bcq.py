"""What does a layer compute whose weight is a sum of sign planes, and how is one fitted?

``weight[n, k] = sum_p alpha[p, n // row_group, k // col_group] * B[p, n, k]`` with ``B`` of +1 and -1, and each
``alpha`` a short sum of signed powers of two. The fit lives in :mod:`~.bcq_fit`. Two semantics share the operator:

* *float* (``activation_bits=0``): decode the weight, then ``F.linear``.
* *integer* (``activation_bits=8``, one scale per column and plane): products are read from 8-bit tables and summed as
  integers, as :mod:`~.bcq_tables` defines to the bit; then comes the bias, one float32 rounding, and the result is
  converted to the dtype of ``x``.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from .bcq_fit import bcq_codes, bcq_fit
from .bcq_tables import lookup_linear
from .calling import as_rows, autocast_like_linear, check_bias, check_input, row_count, without_autocast
from .counts import bcq_linear_counts, bcq_lookup_counts, quantize_tables_counts
from .packing import packed_width, unpack_planes
from .po2 import from_po2_terms

__all__ = ["bcq_codes", "bcq_dequantize", "bcq_fit", "bcq_groups", "bcq_linear"]


def bcq_linear(
    x: Tensor,
    planes_packed: Tensor,
    scale_codes: Tensor,
    bias: Tensor | None,
    row_group: int,
    col_group: int,
    activation_bits: int = 0,
) -> Tensor:
    """Linear map with a binary-coded weight.

    ``y[m, n] = sum_p sum_k alpha[p, n // row_group, k // col_group] * B[p, n, k] * x[m, k] + bias[n]``

    The weight is decoded in float32 (float64 for a float64 ``x``): the terms of a scale are added in their order,
    planes in ascending order, then the sum is converted to the dtype of ``x``. The gradients with respect to ``x`` and
    ``bias`` are those of the linear map; with ``activation_bits=8`` they pass the rounding of the tables straight
    through. Under autocast ``x`` is cast as ``F.linear`` would.

    Args:
        x: floating ``[..., K]``.
        planes_packed: uint8 ``[P, N, ceil(K/8)]``, bit set means +1.
        scale_codes: int8 ``[P, NG, KG, terms]``, see :func:`~.po2.signed_po2_terms`.
        bias: floating ``[N]`` or None.
        row_group: outputs that share a scale; ``NG = ceil(N/row_group)``.
        col_group: inputs that share a scale; ``KG = ceil(K/col_group)``.
        activation_bits: 0 to compute in floats, 8 for the integer semantics of the module docstring, which need
            ``row_group >= N``, ``col_group = 1`` and 1 to 4 planes.

    Returns:
        ``[..., N]`` in the dtype of ``x``.

    Raises:
        ValueError: shapes or dtypes do not fit, or the groups do not fit 8-bit tables.

    Cost: where the eight inputs of a table key share their scale, ``256*ceil(K/8)`` additions per row to build tables,
    then per output ``P*ceil(K/8)`` look-ups and as many additions, and ``P*KG`` scalings of ``terms`` shifts and
    ``terms - 1`` additions (:func:`~.counts.bcq_linear_counts` has the other case); no multiplication. 8-bit tables
    take ``M*K*2**(P-1)`` multiplications to build (:func:`~.counts.quantize_tables_counts`), then per output ``K``
    look-ups whatever ``P`` is, ``K + 1`` shifts and ``K - 1`` additions.

    >>> planes = torch.tensor([[[0b01]], [[0b11]]], dtype=torch.uint8)
    >>> scales = torch.tensor([65, 64], dtype=torch.int8).view(2, 1, 1, 1)
    >>> bcq_linear(torch.tensor([[1.0, 10.0]]), planes, scales, None, 1, 2)
    tensor([[-7.]])

    References: ShiftAddLLM (You et al., NeurIPS 2024), §4.1; LUT-GEMM (Park et al., ICLR 2024).
    """
    check_input(x)
    _check_planes(x.shape[-1], planes_packed)
    n = planes_packed.shape[1]
    check_bias(bias, n)
    _check_scales(scale_codes, (planes_packed.shape[0], *_group_counts(n, x.shape[-1], row_group, col_group)))
    _check_tables(activation_bits, planes_packed.shape[0], n, row_group, col_group)
    x = autocast_like_linear(x)
    return _bcq_linear(x, planes_packed, scale_codes, bias, row_group, col_group, activation_bits)


def bcq_dequantize(signs: Tensor, alpha: Tensor, row_group: int, col_group: int) -> Tensor:
    """The weight that planes and scales stand for; differentiable with respect to ``alpha``.

    Args:
        signs: ±1 ``[P, N, K]``, any dtype.
        alpha: floating ``[P, NG, KG]``.
        row_group: rows that share a scale.
        col_group: columns that share a scale.

    Returns:
        ``[N, K]`` in the dtype of ``alpha``, summed over planes in ascending order in at least float32.

    Raises:
        ValueError: the number of scales does not fit.

    >>> bcq_dequantize(torch.tensor([[[1, -1]], [[1, 1]]]), torch.tensor([[[2.0]], [[0.5]]]), 1, 2)
    tensor([[ 2.5000, -1.5000]])
    """
    planes, n, k = signs.shape
    expected = (planes, *_group_counts(n, k, row_group, col_group))
    if tuple(alpha.shape) != expected:
        raise ValueError(f"alpha must have shape {expected}, got {tuple(alpha.shape)}")
    work = torch.float64 if alpha.dtype == torch.float64 else torch.float32
    total = torch.zeros(n, k, dtype=work, device=alpha.device)
    for plane, scale in zip(signs, alpha.to(work), strict=True):
        total = total + _spread(scale, n, k, row_group, col_group) * plane.to(work)
    return total.to(alpha.dtype)


def bcq_groups(grouping: str, group_size: int | None, n: int, k: int) -> tuple[int, int]:
    """Rows and columns that share a scale under a named grouping.

    Args:
        grouping: ``"row"`` (part of one row), ``"column"`` (part of one column) or ``"block"`` (8 columns, which
            share a look-up key).
        group_size: columns, rows and rows again; None for the whole row, the whole column and an eighth of the rows.
        n: rows of the weight.
        k: columns of the weight.

    Returns:
        ``(row_group, col_group)``.

    Raises:
        ValueError: unknown grouping, or a group size that is not positive.

    >>> bcq_groups("block", None, 100, 64)
    (13, 8)
    """
    if not (group_size is None or group_size > 0):
        raise ValueError(f"group_size must be positive or None, got {group_size}")
    groups = {
        "row": (1, group_size or max(k, 1)),
        "column": (group_size or max(n, 1), 1),
        "block": (group_size or max(-(-n // 8), 1), 8),
    }
    if grouping not in groups:
        raise ValueError(f"grouping must be one of {', '.join(groups)}, got {grouping!r}")
    return groups[grouping]


def decode_planes(
    planes_packed: Tensor, scale_codes: Tensor, k: int, row_group: int, col_group: int, dtype: torch.dtype
) -> Tensor:
    """The weight ``[N, k]`` that packed planes and scale codes stand for."""
    work = torch.float64 if dtype == torch.float64 else torch.float32
    alpha = from_po2_terms(scale_codes, work)
    return bcq_dequantize(unpack_planes(planes_packed, k), alpha, row_group, col_group).to(dtype)


@torch.library.custom_op("shiftadd::bcq_linear", mutates_args=())
def _bcq_linear(
    x: Tensor,
    planes_packed: Tensor,
    scale_codes: Tensor,
    bias: Tensor | None,
    row_group: int,
    col_group: int,
    activation_bits: int = 0,
) -> Tensor:
    with without_autocast(x):
        if activation_bits:
            y = lookup_linear(as_rows(x), planes_packed, scale_codes)
            y = y if bias is None else y + bias.to(torch.float32)
            return y.to(x.dtype).view(*x.shape[:-1], planes_packed.shape[1])
        weight = decode_planes(planes_packed, scale_codes, x.shape[-1], row_group, col_group, x.dtype)
        return F.linear(x, weight, None if bias is None else bias.to(x.dtype)).contiguous()


@_bcq_linear.register_fake
def _bcq_linear_fake(
    x: Tensor,
    planes_packed: Tensor,
    scale_codes: Tensor,
    bias: Tensor | None,
    row_group: int,
    col_group: int,
    activation_bits: int = 0,
) -> Tensor:
    return x.new_empty((*x.shape[:-1], planes_packed.shape[1]))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, planes, codes, bias, row_group, col_group, _ = inputs
    ctx.save_for_backward(planes, codes)
    ctx.k, ctx.row_group, ctx.col_group = x.shape[-1], row_group, col_group
    ctx.bias_dtype = None if bias is None else bias.dtype


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    planes, codes = ctx.saved_tensors
    grad_x = grad_bias = None
    if ctx.needs_input_grad[0]:
        grad_x = grad @ decode_planes(planes, codes, ctx.k, ctx.row_group, ctx.col_group, grad.dtype)
    if ctx.needs_input_grad[3]:
        grad_bias = as_rows(grad).sum(0).to(ctx.bias_dtype)
    return grad_x, None, None, grad_bias, None, None, None


_bcq_linear.register_autograd(_backward, setup_context=_setup_context)


@register_flop_formula(torch.ops.shiftadd.bcq_linear)
def _flops(
    x_shape: Any,
    planes_shape: Any,
    codes_shape: Any,
    bias_shape: Any,
    row_group: int,
    col_group: int,
    activation_bits: int = 0,
    **_: Any,
) -> int:
    m, (planes, n, _width), k = row_count(x_shape), planes_shape, x_shape[-1]
    terms, bias = codes_shape[-1], bias_shape is not None
    if activation_bits:
        return (bcq_lookup_counts(m, n, k, bias) + quantize_tables_counts(m, k, planes)).total
    return bcq_linear_counts(m, n, k, planes, terms, row_group, col_group, bias).total


def _spread(scale: Tensor, n: int, k: int, row_group: int, col_group: int) -> Tensor:
    """``[NG, KG]`` to something that broadcasts over ``[N, K]``."""
    if col_group < k:
        scale = scale.repeat_interleave(col_group, dim=1)[:, :k]
    if row_group == 1 or row_group >= n:
        return scale
    return scale.repeat_interleave(row_group, dim=0)[:n]


def _group_counts(n: int, k: int, row_group: int, col_group: int) -> tuple[int, int]:
    if not (row_group > 0 and col_group > 0):
        raise ValueError(f"groups must be positive, got {row_group} rows, {col_group} columns")
    return -(-n // row_group), -(-k // col_group)


def _check_planes(k: int, planes: Tensor) -> None:
    width = packed_width(k, 1)
    if not (planes.dtype == torch.uint8 and planes.ndim == 3 and planes.shape[2] == width):
        raise ValueError(
            f"planes_packed must be uint8 [P, N, {width}] for x of {k} features, "
            f"got {planes.dtype} {tuple(planes.shape)}"
        )


def _check_scales(codes: Tensor, expected: tuple[int, int, int]) -> None:
    if not (codes.dtype == torch.int8 and codes.ndim == 4 and tuple(codes.shape[:3]) == expected):
        raise ValueError(
            f"scale_codes must be int8 [{', '.join(map(str, expected))}, terms] for these planes and groups, "
            f"got {codes.dtype} {tuple(codes.shape)}"
        )


def _check_tables(activation_bits: int, planes: int, n: int, row_group: int, col_group: int) -> None:
    if activation_bits not in (0, 8):
        raise ValueError(f"activation_bits must be 0 (float) or 8, got {activation_bits}")
    if activation_bits and not (row_group >= n and col_group == 1 and 1 <= planes <= 4):
        raise ValueError(
            f"8-bit tables need one scale per column and plane (row_group of at least {n}, col_group=1) and 1 to 4 "
            f"planes, got row_group={row_group}, col_group={col_group} and {planes} planes: use activation_bits=0"
        )
