"""The kernels behind ``shiftadd::matadd`` and ``shiftadd::matadd_right``."""

from __future__ import annotations

from torch import Tensor

from ..layouts.matadd import RegisterShape, TableShape
from ..layouts.padding import lengthen
from .heads import flat_heads, float_heads, like_heads, run_
from .machine import machine
from .missing import refuse_float64

_MOST_COLUMNS = 1024
"""Columns whose tables lie in memory at once, about as many as a core's second cache holds."""
_WORD = 32  # signs


def matadd(signs_packed: Tensor, values: Tensor) -> Tensor:
    """See :func:`shiftadd_transformers.operators.matadd`.

    Raises:
        MissingKernelError: the values are float64.
    """
    refuse_float64("matadd", values)
    return like_heads(_left(flat_heads(signs_packed), float_heads(values)), values)


def matadd_right(x: Tensor, signs_packed: Tensor) -> Tensor:
    """See :func:`shiftadd_transformers.operators.matadd_right`.

    Raises:
        MissingKernelError: the values are float64.
    """
    refuse_float64("matadd_right", x)
    product = _right_in_registers if machine().has("avx2") else _right
    return like_heads(product(float_heads(x), flat_heads(signs_packed)), x)


def _left(signs: Tensor, v: Tensor) -> Tensor:
    """``[H, M, ceil(K/8)]`` and ``[H, K, N]`` to ``[H, M, N]``."""
    (heads, k, n), shape = v.shape, TableShape.of(v.shape[2], machine())
    v = lengthen(v, -1, shape.width)
    total = None
    for start in range(0, k or 1, _MOST_COLUMNS):
        end = start + _MOST_COLUMNS
        y = v.new_empty(heads, signs.shape[1], v.shape[2])
        run_("matadd", shape, signs[..., start // 8 : end // 8].contiguous(), v[:, start:end].contiguous(), y)
        total = y if total is None else total.add_(y)
    return total[..., :n]


def _right(x: Tensor, signs: Tensor) -> Tensor:
    """``[H, M, K]`` and ``[H, N, ceil(K/8)]`` to ``[H, M, N]``: the transposed product, read and written in place."""
    m, shape = x.shape[1], TableShape.of(x.shape[1], machine(), right=True)
    x = lengthen(x, -2, shape.width)
    y = x.new_empty(len(x), x.shape[1], signs.shape[1])
    run_("matadd", shape, signs, x, y)
    return y[:, :m]


def _right_in_registers(x: Tensor, signs: Tensor) -> Tensor:
    """The same from tables in registers, with whole words of signs and a whole vector of outputs."""
    (heads, n, octets), shape = signs.shape, RegisterShape(machine().lanes)
    words = -(-octets * 8 // _WORD)
    x = lengthen(x, -1, words * _WORD)
    signs = lengthen(lengthen(signs, -1, words * 4), -2, shape.lanes)
    m, total = x.shape[1], signs.shape[1]
    y = x.new_empty(heads, m, total)
    run_("matadd_right", shape, x.view(heads, m, words, 8, 4), signs.view(heads, total, words, 4), y)
    return y[..., :n]
