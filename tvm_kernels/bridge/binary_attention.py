"""The kernel behind ``shiftadd::binary_attention``."""

from __future__ import annotations

import torch
from torch import Tensor

from shiftadd_transformers.operators.binary_attention import combined

from ..layouts.binary_attention import BinaryAttentionShape
from ..layouts.padding import lengthen
from .heads import float_heads, like_heads, run_
from .machine import machine
from .missing import refuse_float64


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
    refuse_float64("binary_attention", value)
    batch, heads, targets, width = query.shape
    if not (query.numel() and value.numel()):  # nothing is summed
        return combined(own.to(torch.float32), torch.zeros_like(own, dtype=torch.float32)).to(value.dtype)
    shape = BinaryAttentionShape.of(width, value.shape[3], binary, machine())
    floats = [float_heads(part) for part in (query, key)]
    floats += [lengthen(float_heads(part), -1, shape.values) for part in (value, own)]
    # Comparing in float32 is comparing in the narrower type, for it holds all its values.
    floats += [t.to(query.dtype).to(torch.float32).repeat(batch) for t in (query_threshold, key_threshold)]
    y = torch.empty(batch * heads, targets, shape.values)
    run_("binary_attention", shape, *floats, y)
    return like_heads(y[..., : value.shape[3]], value)
