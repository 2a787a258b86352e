"""The kernel behind ``shiftadd::binary_attention``."""

from __future__ import annotations

import torch
from torch import Tensor

from shiftadd_transformers.operators.binary_attention import combined

from ..kernels import Kernel
from ..layouts.binary_attention import BinaryAttentionShape
from ..layouts.matadd import lengthen
from .machine import machine
from .missing import MissingKernelError


def binary_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    own: Tensor,
    query_threshold: Tensor,
    key_threshold: Tensor,
    binary: bool,
) -> Tensor:
    """See :func:`shiftadd_transformers.operators.binary_attention`.

    Raises:
        MissingKernelError: operands are float64.
    """
    if value.dtype == torch.float64:
        raise MissingKernelError("binary_attention has no kernel for float64: use float32, or disable kernels")
    batch, heads, targets, width = query.shape
    if not (query.numel() and value.numel()):  # nothing is summed
        return combined(own.to(torch.float32), torch.zeros_like(own, dtype=torch.float32)).to(value.dtype)
    shape = BinaryAttentionShape.of(width, value.shape[3], binary, machine())
    floats = [part.flatten(0, 1).to(torch.float32).contiguous() for part in (query, key)]
    floats += [lengthen(part.flatten(0, 1).to(torch.float32), -1, shape.values).contiguous() for part in (value, own)]
    # Comparing in float32 is comparing in the narrower type, for it holds all its values.
    floats += [t.to(query.dtype).to(torch.float32).repeat(batch) for t in (query_threshold, key_threshold)]
    y = torch.empty(batch * heads, targets, shape.values)
    Kernel("binary_attention", shape, machine()).function()(*floats, y)
    return y[..., : value.shape[3]].unflatten(0, (batch, heads)).to(value.dtype).contiguous()
