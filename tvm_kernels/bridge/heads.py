"""What do the kernels of attention share? Matrices of many heads, whose leading axes are one for a kernel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..kernels import Kernel
from .machine import machine


def flat_heads(tensor: Tensor) -> Tensor:
    """``[..., T, E]`` as compact ``[H, T, E]``."""
    lead = tensor.shape[:-2]
    return tensor.reshape(lead.numel(), *tensor.shape[-2:]).contiguous()


def float_heads(tensor: Tensor) -> Tensor:
    """The same in float32."""
    return flat_heads(tensor).to(torch.float32)


def like_heads(y: Tensor, values: Tensor) -> Tensor:
    """The result ``[H, T, E]``, compact, in the dtype and with the leading axes of the values."""
    return y.to(values.dtype).reshape(*values.shape[:-2], *y.shape[-2:]).contiguous()


def run_(name: str, shape: Any, *operands: Tensor) -> None:
    """Call a kernel, whose last operand is the result; a sum over nothing is zero.

    Args:
        name: the kernel.
        shape: its static shape.
        operands: what it reads, and what it writes.
    """
    if all(operand.numel() for operand in operands):
        Kernel(name, shape, machine()).function()(*operands)
    else:
        operands[-1].zero_()
