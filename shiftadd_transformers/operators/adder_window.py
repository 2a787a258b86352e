"""What is a depthwise convolution over tokens that measures distances in place of products?

``y[h, t, e] = -sum_j |x[h, t + j, e] - w[h, j]|``, one kernel per head. Taps are taken one after the other, so nothing
of the size of all windows is built.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from .calling import without_autocast
from .counts import OpCounts, adder_linear_counts
from .token_convolution import check_window


def adder_window(x: Tensor, taps: Tensor) -> Tensor:
    """Negative L1 distance between every window of tokens and its head's kernel.

    ``y[b, h, t, e] = -sum_j |x[b, h, t + j, e] - taps[h, j]|``, accumulated in at least float32. A zero in ``x``
    contributes ``-|w|``: padding is part of the sum.

    The gradients are AdderNet's surrogates: with ``g`` the incoming one, ``taps`` receives ``sum g * (x - w)`` and
    ``x`` receives ``sum_j g * clamp(w - x, -1, 1)``.

    Args:
        x: floating ``[B, H, T + J - 1, E]``.
        taps: floating ``[H, J]``.

    Returns:
        ``[B, H, T, E]`` in the dtype of ``x``; at most 0.

    Raises:
        ValueError: shapes do not fit.

    Cost: ``2*J`` additions per result; no multiplication.

    >>> x = torch.tensor([1.0, 2.0, 0.0]).view(1, 1, 3, 1)
    >>> adder_window(x, torch.tensor([[1.0, 1.0]])).flatten()
    tensor([-1., -2.])

    References: ShiftAddNAS (You et al., ICML 2022), the "Add" block; AdderNet (Chen et al., CVPR 2020). Differs:
    incremental decoding computes the same sum, and never a convolution.
    """
    check_window(x, taps)
    return _adder_window(x, taps)


def adder_window_counts(values: int, taps: int) -> OpCounts:
    """``values`` results of ``taps`` taps each.

    >>> adder_window_counts(10, 3)
    OpCounts(multiply=0, add=60, shift=0, lookup=0)
    """
    return adder_linear_counts(values, 1, taps)


@torch.library.custom_op("shiftadd::adder_window", mutates_args=())
def _adder_window(x: Tensor, taps: Tensor) -> Tensor:
    length = x.shape[2] - taps.shape[1] + 1
    work = _accumulator(x)
    with without_autocast(x):
        total = torch.zeros(*x.shape[:2], length, x.shape[3], dtype=work, device=x.device)
        for j, tap in enumerate(_per_tap(taps, work)):
            total -= (x[:, :, j : j + length].to(work) - tap).abs_()
        return total.to(x.dtype)


@torch.library.custom_op("shiftadd::adder_window_gradient", mutates_args=())
def _adder_window_gradient(grad: Tensor, x: Tensor, taps: Tensor) -> tuple[Tensor, Tensor]:
    length, work = grad.shape[2], _accumulator(x)
    to_x, to_taps = torch.zeros_like(x, dtype=work), torch.zeros_like(taps, dtype=work)
    grad = grad.to(work)
    with without_autocast(x):
        for j, tap in enumerate(_per_tap(taps, work)):
            difference = x[:, :, j : j + length].to(work) - tap
            to_taps[:, j] = (grad * difference).sum(dim=(0, 2, 3))
            to_x[:, :, j : j + length] -= grad * difference.clamp_(-1, 1)
    return to_x.to(x.dtype), to_taps.to(taps.dtype)


def _per_tap(taps: Tensor, dtype: torch.dtype) -> Tensor:
    """One ``[H, 1, 1]`` per tap."""
    return taps.to(dtype).t().unsqueeze(-1).unsqueeze(-1)


def _accumulator(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


@_adder_window.register_fake
def _fake(x: Tensor, taps: Tensor) -> Tensor:
    return x.new_empty(*x.shape[:2], x.shape[2] - taps.shape[1] + 1, x.shape[3])


@_adder_window_gradient.register_fake
def _gradient_fake(grad: Tensor, x: Tensor, taps: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(taps)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
    gradients: tuple[Tensor, Tensor] = _adder_window_gradient(grad, *ctx.saved_tensors)
    return gradients


_adder_window.register_autograd(_backward, setup_context=_setup_context)


@register_flop_formula(torch.ops.shiftadd.adder_window)
def _flops(x_shape: Any, taps_shape: Any, **_: Any) -> int:
    b, h, length, e = x_shape
    return adder_window_counts(b * h * (length - taps_shape[1] + 1) * e, taps_shape[1]).total
