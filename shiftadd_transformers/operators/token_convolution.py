"""What is a depthwise convolution over tokens, with one kernel per head?

``y[h, t, e] = sum_j w[h, j] * x[h, t + j, e]``: all channels of a head share its kernel.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from .calling import without_autocast
from .counts import dense_linear_counts


def token_convolution(x: Tensor, taps: Tensor) -> Tensor:
    """Slide one kernel per head over the tokens.

    ``y[b, h, t, e] = sum_j taps[h, j] * x[b, h, t + j, e]``. The gradients are the true ones.

    Args:
        x: floating ``[B, H, T + J - 1, E]``, padding included.
        taps: floating ``[H, J]``, converted to the dtype of ``x``.

    Returns:
        ``[B, H, T, E]`` in the dtype of ``x``.

    Raises:
        ValueError: shapes do not fit.

    Cost: ``J`` multiplications and ``J - 1`` additions per result.

    >>> x = torch.tensor([1.0, 2.0, 4.0]).view(1, 1, 3, 1)
    >>> token_convolution(x, torch.tensor([[1.0, 10.0]])).flatten()
    tensor([21., 42.])

    References: Wu et al., Pay less attention with lightweight and dynamic convolutions, ICLR 2019.
    """
    check_window(x, taps)
    return _token_convolution(x, taps.to(x.dtype))


def check_window(x: Tensor, taps: Tensor) -> None:
    """Raise unless ``taps [H, J]`` slide over the tokens of ``x [B, H, T + J - 1, E]``."""
    if x.ndim != 4 or taps.ndim != 2 or taps.shape[0] != x.shape[1] or not 0 < taps.shape[1] <= x.shape[2]:
        raise ValueError(
            "x must be [B, H, T + J - 1, E] and taps [H, J] with at least one of each, got "
            f"{tuple(x.shape)} and {tuple(taps.shape)}"
        )


@torch.library.custom_op("shiftadd::token_convolution", mutates_args=())
def _token_convolution(x: Tensor, taps: Tensor) -> Tensor:
    batch, heads, length, width = x.shape
    rows = x.permute(0, 3, 1, 2).reshape(batch * width, heads, length)
    with without_autocast(x):
        y = F.conv1d(rows, taps.unsqueeze(1), groups=heads)
    return y.view(batch, width, heads, y.shape[-1]).permute(0, 2, 3, 1).contiguous()


@_token_convolution.register_fake
def _fake(x: Tensor, taps: Tensor) -> Tensor:
    return x.new_empty(*x.shape[:2], x.shape[2] - taps.shape[1] + 1, x.shape[3])


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
    x, taps = ctx.saved_tensors
    length, count = grad.shape[2], taps.shape[1]
    to_x = _token_convolution(F.pad(grad, (0, 0, count - 1, count - 1)), taps.flip(-1))
    columns = [(grad * x[:, :, j : j + length]).sum(dim=(0, 2, 3)) for j in range(count)]
    return to_x, torch.stack(columns, dim=-1)


_token_convolution.register_autograd(_backward, setup_context=_setup_context)


@register_flop_formula(torch.ops.shiftadd.token_convolution)
def _flops(x_shape: Any, taps_shape: Any, **_: Any) -> int:
    b, h, length, e = x_shape
    return dense_linear_counts(b * h * (length - taps_shape[1] + 1) * e, 1, taps_shape[1]).total
