"""What do all linear kernels share? Rows that come in any number and shape, and leave as they came."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from shiftadd_transformers.operators.calling import as_rows

from ..kernels import Kernel
from ..layouts.activation import RowsShape, RowTiles
from .machine import machine


def float_rows(x: Tensor) -> Tensor:
    """``[..., K]`` as compact float32 rows ``[M, K]``; a view where it is one already."""
    return (x if x.ndim == 2 else as_rows(x)).to(torch.float32).contiguous()


def whole_rows(y: Tensor, m: int, n: int) -> Tensor:
    """The result ``[M, N]`` without the padding of its tiles ``[tiles, rows, blocks, lanes]``."""
    tiles, rows, blocks, lanes = y.shape
    y = y.view(tiles * rows, blocks * lanes)
    return y if y.shape == (m, n) else y[:m, :n].contiguous()


def like_input(y: Tensor, x: Tensor) -> Tensor:
    """The result in the dtype and with the leading axes of the input."""
    return y.to(x.dtype) if x.ndim == 2 else y.to(x.dtype).view(*x.shape[:-1], y.shape[-1])


class TileKernels:
    """The kernels of one weight, one per size of row tile; compiled when they are first needed.

    Args:
        name: the kernel.
        shape: its static shape; ``rows`` and ``many_rows`` are set per tile size.
    """

    def __init__(self, name: str, shape: Any) -> None:
        self._name, self._shape = name, shape
        self._known: dict[tuple[int, bool], Callable[..., None]] = {}

    def __call__(self, cut: RowTiles) -> Callable[..., None]:
        """The kernel for rows cut like this."""
        key = (cut.rows, cut.many)
        known = self._known.get(key)
        if known is None:
            shape = replace(self._shape, rows=cut.rows, many_rows=cut.many)
            known = self._known[key] = Kernel(self._name, shape, machine()).function()
        return known


class CodeBuffers:
    """Codes, scales and sums of quantised rows, in the shapes that both sides read them in."""

    def __init__(self, shape: RowsShape, m: int) -> None:
        self.cut = cut = RowTiles.of(m)
        codes = torch.empty(cut.total, shape.groups, shape.chunks, shape.lanes, dtype=torch.int8)
        scale, sums = torch.empty(cut.total), torch.empty(cut.total, shape.groups, dtype=torch.int32)
        self.flat = (codes[:m], scale[:m], sums[:m])
        self.tiled = (
            codes.view(cut.tiles, cut.rows, shape.groups, shape.width // 8, 2, 4),
            scale.view(cut.tiles, cut.rows),
            sums.view(cut.tiles, cut.rows, shape.groups),
        )


class QuantizedRows:
    """Quantises rows to 8 bits.

    Buffers for few rows are kept, per thread: where every call allocates, allocation takes longer than a small layer.
    """

    def __init__(self, shape: RowsShape) -> None:
        self.shape = shape
        self._kernel = Kernel("quantize_rows", shape, machine()).function()
        self._kept = threading.local()

    def __call__(self, x: Tensor) -> CodeBuffers:
        """Codes of float32 rows ``[M, K]``; valid until the same thread asks again."""
        m, shape = x.shape[0], self.shape
        buffers = self._buffers(m)
        self._kernel(shape.pad(x).view(m, shape.groups, shape.chunks, shape.lanes), *buffers.flat)
        return buffers

    def _buffers(self, m: int) -> CodeBuffers:
        known = getattr(self._kept, "buffers", None)
        if known is not None and known[0] == m:
            return known[1]
        buffers = CodeBuffers(self.shape, m)
        if not buffers.cut.many:
            self._kept.buffers = (m, buffers)
        return buffers
