"""The kernels behind ``shiftadd::token_convolution`` and ``shiftadd::adder_window``."""

from __future__ import annotations

import torch
from torch import Tensor

from ..kernels import Kernel
from ..layouts.matadd import lengthen
from ..layouts.token_window import TokenWindowShape
from .machine import machine
from .missing import MissingKernelError


def token_convolution(x: Tensor, taps: Tensor) -> Tensor:
    """See :func:`shiftadd_transformers.operators.token_convolution`.

    Raises:
        MissingKernelError: the tokens are float64.
    """
    return _window("token_convolution", x, taps, distance=False)


def adder_window(x: Tensor, taps: Tensor) -> Tensor:
    """See :func:`shiftadd_transformers.operators.adder_window`.

    Raises:
        MissingKernelError: the tokens are float64.
    """
    return _window("adder_window", x, taps, distance=True)


def _window(name: str, x: Tensor, taps: Tensor, distance: bool) -> Tensor:
    if x.dtype == torch.float64:
        raise MissingKernelError(f"{name} has no kernel for float64: use float32, or disable kernels")
    batch, heads, length, width = x.shape
    shape = TokenWindowShape.of(width, distance, machine())
    tokens = lengthen(x.flatten(0, 1).to(torch.float32), -1, shape.width).contiguous()
    y = tokens.new_empty(batch * heads, length - taps.shape[1] + 1, shape.width)
    if y.numel():
        kernels = taps.to(torch.float32).repeat(batch, 1)
        Kernel("token_window", shape, machine()).function()(tokens, kernels, y)
    return y[..., :width].unflatten(0, (batch, heads)).to(x.dtype).contiguous()
