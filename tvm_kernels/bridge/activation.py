"""Rows of activations in the two forms that shift kernels read: 8-bit codes, and bits of normalised floats."""

from __future__ import annotations

import torch
from torch import Tensor

from ..kernels import Kernel
from ..layouts.activation import RowsShape, RowTiles
from ..layouts.shift_float import NormalRows
from .machine import machine
from .rows import KeptBuffers


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
    """Quantises float32 rows ``[M, K]`` to 8 bits."""

    def __init__(self, shape: RowsShape) -> None:
        self.shape = shape
        self._kernel = Kernel("quantize_rows", shape, machine()).function()
        self._buffers = KeptBuffers(lambda m: CodeBuffers(shape, m))

    def __call__(self, x: Tensor) -> CodeBuffers:
        """The codes; valid until the same thread asks again."""
        shape, buffers = self.shape, self._buffers(x.shape[0])
        self._kernel(shape.pad(x).view(-1, shape.groups, shape.chunks, shape.lanes), *buffers.flat)
        return buffers


class NormalBuffers:
    """Bits and masks of normalised rows and their factors, in the shapes that both sides read them in."""

    def __init__(self, shape: NormalRows, columns: int, m: int) -> None:
        self.cut = cut = RowTiles.of(m)
        pairs = torch.zeros(cut.total, shape.chunks, shape.width, 2, dtype=torch.int32)
        factor = torch.zeros(cut.total)
        self.flat = (pairs[:m].view(m, shape.chunks * shape.width // 8, 8, 2), factor[:m])
        self.tiled = (
            pairs.view(cut.tiles, cut.rows, shape.chunks, shape.width // columns, columns, 2),
            factor.view(cut.tiles, cut.rows),
        )


class NormalizedRows:
    """Brings float32 rows ``[M, K]`` below one, as bits.

    Args:
        shape: their static shape.
        columns: columns that one word of weights covers.
    """

    def __init__(self, shape: NormalRows, columns: int) -> None:
        self.shape = shape
        self._kernel = Kernel("normalize_rows", shape, machine()).function()
        self._buffers = KeptBuffers(lambda m: NormalBuffers(shape, columns, m))

    def __call__(self, x: Tensor) -> NormalBuffers:
        """The bits; valid until the same thread asks again."""
        shape, buffers = self.shape, self._buffers(x.shape[0])
        self._kernel(shape.pad(x).view(-1, shape.chunks * shape.width // 8, 8), *buffers.flat)
        return buffers
