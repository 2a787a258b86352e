"""The kernels behind ``shiftadd::matadd`` and ``shiftadd::matadd_right``."""

from __future__ import annotations

import torch
from torch import Tensor

from ..kernels import Kernel
from ..layouts.matadd import RegisterShape, TableShape, lengthen
from .machine import machine
from .missing import MissingKernelError

_MOST_COLUMNS = 1024
"""Columns whose tables lie in memory at once, about as many as a core's second cache holds."""
_WORD = 32  # signs


def matadd(signs_packed: Tensor, values: Tensor) -> Tensor:
    """See :func:`shiftadd_transformers.operators.matadd`.

    Raises:
        MissingKernelError: the values are float64.
    """
    return _restored(_left(_heads(signs_packed), _floats(values)), values)


def matadd_right(x: Tensor, signs_packed: Tensor) -> Tensor:
    """See :func:`shiftadd_transformers.operators.matadd_right`.

    Raises:
        MissingKernelError: the values are float64.
    """
    product = _right_in_registers if machine().has("avx2") else _right
    return _restored(product(_floats(x), _heads(signs_packed)), x)


def _left(signs: Tensor, v: Tensor) -> Tensor:
    """``[H, M, ceil(K/8)]`` and ``[H, K, N]`` to ``[H, M, N]``."""
    (heads, k, n), shape = v.shape, TableShape.of(v.shape[2], machine())
    v = lengthen(v, -1, shape.width)
    total = None
    for start in range(0, k or 1, _MOST_COLUMNS):
        end = start + _MOST_COLUMNS
        y = v.new_empty(heads, signs.shape[1], v.shape[2])
        _run("matadd", shape, signs[..., start // 8 : end // 8].contiguous(), v[:, start:end].contiguous(), y)
        total = y if total is None else total.add_(y)
    return total[..., :n]


def _right(x: Tensor, signs: Tensor) -> Tensor:
    """``[H, M, K]`` and ``[H, N, ceil(K/8)]`` to ``[H, M, N]``: the transposed product, read and written in place."""
    m, shape = x.shape[1], TableShape.of(x.shape[1], machine(), right=True)
    x = lengthen(x, -2, shape.width)
    y = x.new_empty(len(x), x.shape[1], signs.shape[1])
    _run("matadd", shape, signs, x, y)
    return y[:, :m]


def _right_in_registers(x: Tensor, signs: Tensor) -> Tensor:
    """The same from tables in registers, with whole words of signs and a whole vector of outputs."""
    (heads, n, octets), shape = signs.shape, RegisterShape(machine().lanes)
    words = -(-octets * 8 // _WORD)
    x = lengthen(x, -1, words * _WORD)
    signs = lengthen(lengthen(signs, -1, words * 4), -2, shape.lanes)
    m, total = x.shape[1], signs.shape[1]
    y = x.new_empty(heads, m, total)
    _run("matadd_right", shape, x.view(heads, m, words, 8, 4), signs.view(heads, total, words, 4), y)
    return y[..., :n]


def _run(name: str, shape: TableShape | RegisterShape, *operands: Tensor) -> None:
    """Call a kernel, whose last operand is the result; a sum over nothing is zero."""
    if all(operand.numel() for operand in operands):
        Kernel(name, shape, machine()).function()(*operands)
    else:
        operands[-1].zero_()


def _heads(tensor: Tensor) -> Tensor:
    """Compact, with all leading axes as one."""
    lead = tensor.shape[:-2]
    return tensor.reshape(lead.numel(), *tensor.shape[-2:]).contiguous()


def _floats(values: Tensor) -> Tensor:
    if values.dtype == torch.float64:
        raise MissingKernelError(
            "products with a binary operand have no float64 kernel: convert the values to float32, or compute them "
            "with kernels disabled"
        )
    return _heads(values).to(torch.float32)


def _restored(y: Tensor, values: Tensor) -> Tensor:
    """The result in the dtype and with the leading axes of the values."""
    return y.to(values.dtype).reshape(*values.shape[:-2], *y.shape[-2:]).contiguous()
