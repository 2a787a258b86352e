"""What is a matrix product worth when one operand is ±1?

Additions alone: each sign says whether a value is added or subtracted. This is the MatAdd of attention with binary
queries, keys or weights. The binary operand comes packed, one bit per sign along the reduction axis
(:func:`~.packing.pack_planes`), and stands on either side.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from .calling import autocast_like_linear, row_count, without_autocast
from .counts import matadd_counts
from .packing import packed_width, unpack_planes


def matadd(signs_packed: Tensor, values: Tensor) -> Tensor:
    """Product of a binary matrix with a real one.

    ``y[..., m, n] = sum_k B[..., m, k] * values[..., k, n]`` with ``B`` of +1 and -1

    The signs are converted to the dtype of ``values``, which is exact, and multiplied as matrices. The gradient with
    respect to ``values`` is the true one, ``B^T g``: a product of the same kind. Signs have none; where they are
    trained, :func:`~.ste.sign_ste` is in front. Under autocast ``values`` is cast as ``F.linear`` would.

    Args:
        signs_packed: uint8 ``[..., M, ceil(K/8)]``, bit set means +1.
        values: floating ``[..., K, N]`` with the same leading axes.

    Returns:
        ``[..., M, N]`` in the dtype of ``values``.

    Raises:
        ValueError: shapes or dtypes do not fit.

    Cost: ``M*N*(K - 1)`` additions per product, as subtracting costs what adding costs; no multiplication.

    >>> signs = torch.tensor([[0b01], [0b11]], dtype=torch.uint8)
    >>> matadd(signs, torch.tensor([[1.0], [10.0]]))
    tensor([[-9.],
            [11.]])

    References: EcoFormer (Liu et al., NeurIPS 2022); ShiftAddViT (You et al., NeurIPS 2023). Differs: the released
    kernel skips where a bit is not set, this one subtracts.
    """
    _check(values, -2, "values", signs_packed, "M")
    return _matadd(signs_packed, autocast_like_linear(values))


def matadd_right(x: Tensor, signs_packed: Tensor) -> Tensor:
    """Product of a real matrix with the transpose of a binary one, as in ``q k^T``.

    ``y[..., m, n] = sum_k x[..., m, k] * B[..., n, k]`` with ``B`` of +1 and -1

    The signs are converted to the dtype of ``x``, which is exact, and multiplied as matrices. The gradient with
    respect to ``x`` is the true one, ``g B``: a product of the same kind. Under autocast ``x`` is cast as ``F.linear``
    would.

    Args:
        x: floating ``[..., M, K]``.
        signs_packed: uint8 ``[..., N, ceil(K/8)]`` with the same leading axes, bit set means +1.

    Returns:
        ``[..., M, N]`` in the dtype of ``x``.

    Raises:
        ValueError: shapes or dtypes do not fit.

    Cost: ``M*N*(K - 1)`` additions per product, as subtracting costs what adding costs; no multiplication.

    >>> signs = torch.tensor([[0b01], [0b11]], dtype=torch.uint8)
    >>> matadd_right(torch.tensor([[1.0, 10.0]]), signs)
    tensor([[-9., 11.]])

    References: EcoFormer (Liu et al., NeurIPS 2022); ShiftAddViT (You et al., NeurIPS 2023). Differs: the released
    kernel skips where a bit is not set, this one subtracts.
    """
    _check(x, -1, "x", signs_packed, "N")
    return _matadd_right(autocast_like_linear(x), signs_packed)


@torch.library.custom_op("shiftadd::matadd", mutates_args=())
def _matadd(signs_packed: Tensor, values: Tensor) -> Tensor:
    with without_autocast(values):
        return (_signs(signs_packed, values.shape[-2], values.dtype) @ values).contiguous()


@torch.library.custom_op("shiftadd::matadd_right", mutates_args=())
def _matadd_right(x: Tensor, signs_packed: Tensor) -> Tensor:
    with without_autocast(x):
        return (x @ _signs(signs_packed, x.shape[-1], x.dtype).mT).contiguous()


@_matadd.register_fake
def _matadd_fake(signs_packed: Tensor, values: Tensor) -> Tensor:
    return values.new_empty((*signs_packed.shape[:-1], values.shape[-1]))


@_matadd_right.register_fake
def _matadd_right_fake(x: Tensor, signs_packed: Tensor) -> Tensor:
    return x.new_empty((*x.shape[:-1], signs_packed.shape[-2]))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    signs, values = inputs
    ctx.save_for_backward(signs)
    ctx.k = values.shape[-2]


def _setup_context_right(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, signs = inputs
    ctx.save_for_backward(signs)
    ctx.k = x.shape[-1]


def _backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
    (signs,) = ctx.saved_tensors
    return None, _signs(signs, ctx.k, grad.dtype).mT @ grad


def _backward_right(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    (signs,) = ctx.saved_tensors
    return grad @ _signs(signs, ctx.k, grad.dtype), None


_matadd.register_autograd(_backward, setup_context=_setup_context)
_matadd_right.register_autograd(_backward_right, setup_context=_setup_context_right)


@register_flop_formula(torch.ops.shiftadd.matadd)
def _flops(signs_shape: Any, values_shape: Any, **_: Any) -> int:
    return matadd_counts(row_count(signs_shape), values_shape[-1], values_shape[-2]).total


@register_flop_formula(torch.ops.shiftadd.matadd_right)
def _flops_right(x_shape: Any, signs_shape: Any, **_: Any) -> int:
    return matadd_counts(row_count(x_shape), signs_shape[-2], x_shape[-1]).total


def _signs(packed: Tensor, k: int, dtype: torch.dtype) -> Tensor:
    return unpack_planes(packed, k).to(dtype)


def _check(real: Tensor, axis: int, name: str, signs: Tensor, rows: str) -> None:
    """Raise unless ``real``, reduced along ``axis``, has a partner in ``signs``."""
    if not (real.is_floating_point() and real.ndim > 1):
        raise ValueError(f"{name} must be a floating matrix or a batch of them, got {real.dtype} {tuple(real.shape)}")
    expected = (*real.shape[:-2], rows, packed_width(real.shape[axis], 1))
    fits = signs.ndim == real.ndim and signs.shape[:-2] == real.shape[:-2] and signs.shape[-1] == expected[-1]
    if not (signs.dtype == torch.uint8 and fits):
        raise ValueError(
            f"signs_packed must be uint8 [{', '.join(map(str, expected))}] for {name} {tuple(real.shape)}, which has "
            f"{real.shape[axis]} features to reduce, got {signs.dtype} {tuple(signs.shape)}: "
            "leading axes are not broadcast, expand them"
        )
