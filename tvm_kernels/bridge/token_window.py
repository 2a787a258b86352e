"""The kernels behind ``shiftadd::token_convolution`` and ``shiftadd::adder_window``."""

from __future__ import annotations

import torch
from torch import Tensor

from ..layouts.padding import lengthen
from ..layouts.token_window import TokenWindowShape
from .heads import float_heads, like_heads, run_
from .machine import machine
from .missing import refuse_float64


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
    refuse_float64(name, x)
    batch, heads, length, width = x.shape
    shape = TokenWindowShape.of(width, distance, machine())
    tokens = lengthen(float_heads(x), -1, shape.width)
    y = tokens.new_empty(batch * heads, length - taps.shape[1] + 1, shape.width)
    run_("token_window", shape, tokens, taps.to(torch.float32).repeat(batch, 1), y)
    return like_heads(y[..., :width], x)
