"""The kernel behind ``shiftadd::head_distances``."""

from __future__ import annotations

import torch
from torch import Tensor

from ..layouts.head_distances import HeadDistancesShape
from ..layouts.padding import lengthen
from .heads import float_heads, like_heads, run_
from .machine import machine
from .missing import refuse_float64


def head_distances(query: Tensor, key: Tensor) -> Tensor:
    """See :func:`shiftadd_transformers.operators.head_distances`.

    Raises:
        MissingKernelError: operands are float64.
    """
    refuse_float64("head_distances", query)
    sources, shape = key.shape[1], HeadDistancesShape.of(key.shape[1], machine())
    floats = [float_heads(query), lengthen(float_heads(key), -2, shape.width)]
    y = torch.empty(*query.shape[:2], floats[1].shape[1])
    run_("head_distances", shape, *floats, y)
    return like_heads(y[..., :sources], query)
