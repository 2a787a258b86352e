"""How are powers of two read from and written into floats, exactly and on every device?

The exponent field of the number is used directly. ``torch.ldexp``, ``torch.pow`` and ``torch.log2`` go through float
functions whose last bit depends on the device, and which fail on zero.
"""

from __future__ import annotations

import torch
from torch import Tensor


def power_of_two(exponent: Tensor, dtype: torch.dtype) -> Tensor:
    """``2**exponent``, exactly.

    Args:
        exponent: integers in -126..127, any shape.
        dtype: floating dtype of the result; float16 rounds what it cannot represent.

    Returns:
        tensor of ``exponent``'s shape.

    >>> power_of_two(torch.tensor([-126, 0, 3], dtype=torch.int8), torch.float32).tolist()
    [1.1754943508222875e-38, 1.0, 8.0]
    """
    if dtype == torch.float64:
        return ((exponent.to(torch.int64) + 1023) << 52).view(torch.float64)
    return ((exponent.to(torch.int32) + 127) << 23).view(torch.float32).to(dtype)


def work_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype whose bits are worked on: float64 for itself, float32 for everything it contains."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def nearest_power(magnitude: Tensor) -> Tensor:
    """Nearest power of two in the log domain; 0 for 0.

    The constant lifts a mantissa of at least sqrt(2), rounded up to the dtype, over the next power. Subnormals come
    out as 0 or as the smallest normal number, NaN as anything.

    Args:
        magnitude: float32 or float64, not negative.

    Returns:
        the same shape and dtype.

    >>> nearest_power(torch.tensor([0.0, 1.41, 1.42]))
    tensor([0., 1., 2.])
    """
    if magnitude.dtype == torch.float64:
        bits = (magnitude.view(torch.int64) + (0x4000000000000000 - 0x3FF6A09E667F3BCD)) & ~0xFFFFFFFFFFFFF
        return bits.view(torch.float64)
    bits = (magnitude.view(torch.int32) + (0x40000000 - 0x3FB504F4)) & ~0x7FFFFF
    return bits.view(torch.float32)


def floor_log2(value: Tensor) -> Tensor:
    """The exponent field of a positive float, int32; 0 and subnormals give the smallest.

    >>> floor_log2(torch.tensor([0.75, 1.0, 0.0])).tolist()
    [-1, 0, -127]
    """
    if value.dtype == torch.float64:
        return ((value.view(torch.int64) >> 52) - 1023).to(torch.int32)
    return (value.view(torch.int32) >> 23) - 127
