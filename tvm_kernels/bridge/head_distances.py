"""The kernel behind ``shiftadd::head_distances``."""

from __future__ import annotations

from torch import Tensor

from ..kernels import Kernel
from ..layouts.head_distances import HeadDistancesShape
from ..layouts.matadd import lengthen
from .machine import machine
from .missing import MissingKernelError


def head_distances(query: Tensor, key: Tensor) -> Tensor:
    """See :func:`shiftadd_transformers.operators.head_distances`.

    Raises:
        MissingKernelError: operands are not float32.
    """
    if query.element_size() != 4:
        raise MissingKernelError(f"head_distances has no kernel for {query.dtype}: use float32, or disable kernels")
    sources, shape = key.shape[1], HeadDistancesShape.of(key.shape[1], machine())
    key = lengthen(key, -2, shape.width).contiguous()
    y = query.new_empty(*query.shape[:2], key.shape[1])
    if query.numel():
        Kernel("head_distances", shape, machine()).function()(query.contiguous(), key, y)
    else:
        y.zero_()
    return y[..., :sources].contiguous()
