"""Where does a float lie among the multiples of a power of two that 8 bits count?"""

from __future__ import annotations

from torch import Tensor

from .exponent_bits import power_of_two


def on_grid(x: Tensor, exponent: Tensor) -> Tensor:
    """``x`` rounded half to even to the multiples of ``2**exponent`` within ±127; sums of differences are then exact.

    Args:
        x: floating, any shape.
        exponent: integers in -126..127, broadcastable to ``x``.

    Returns:
        the shape and dtype of ``x``.

    >>> import torch
    >>> on_grid(torch.tensor([0.3, 99.0]), torch.tensor(-2, dtype=torch.int8))
    tensor([ 0.2500, 31.7500])
    """
    step = power_of_two(exponent, x.dtype)
    return (x / step).round_().clamp_(-127, 127) * step
