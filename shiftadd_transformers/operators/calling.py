"""What do all operators share at the door: input checks, mixed precision, row counts?"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor


def check_input(x: Tensor) -> None:
    """Raise unless ``x`` is a floating tensor with a feature axis."""
    if not (x.is_floating_point() and x.ndim > 0):
        raise ValueError(f"x must be a floating tensor [..., K], got {x.dtype} of shape {tuple(x.shape)}")


def check_bias(bias: Tensor | None, n: int) -> None:
    """Raise unless ``bias`` is absent or has one value per output."""
    if bias is not None and tuple(bias.shape) != (n,):
        raise ValueError(f"bias must have shape ({n},), got {tuple(bias.shape)}")


def autocast_like_linear(x: Tensor) -> Tensor:
    """Cast as ``F.linear`` would: to the autocast dtype where autocast is on and ``x`` is not float64."""
    device = x.device.type
    if x.dtype == torch.float64 or not torch.is_autocast_enabled(device):
        return x
    return x.to(torch.get_autocast_dtype(device))


def without_autocast(x: Tensor) -> torch.autocast:
    """A context for operator bodies: what they compute follows from their arguments alone."""
    return torch.autocast(x.device.type, enabled=False)


def row_count(shape: Sequence[int]) -> int:
    """Number of rows ``M`` of an input shape ``[..., K]``."""
    return prod(shape[:-1])


def as_rows(x: Tensor) -> Tensor:
    """``[..., K]`` as a matrix ``[M, K]``; unlike ``reshape(-1, K)`` also for an empty feature axis."""
    return x.reshape(row_count(x.shape), x.shape[-1])
