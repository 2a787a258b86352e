"""The kernels behind ``shiftadd::adder_linear`` and its gradient for the input."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from tvm_ffi import from_dlpack

from ..layouts.activation import RowsShape, RowTiles
from ..layouts.adder import LARGEST_BITS, AdderGradientShape, AdderShape, AdderTilesShape, even_groups
from ..layouts.padding import lengthen
from ..layouts.shift import block_count
from .machine import machine
from .missing import refuse_float64
from .operands import Operands
from .rows import TileKernels, float_rows, like_input, whole_rows

_TEMPLATES_AT_ONCE = 128
"""Templates whose gradients are summed before their sum joins the total."""


class TransposedRows:
    """Writes rows in tiles, column after column, and sums them over groups of columns."""

    def __init__(self, columns: RowsShape) -> None:
        self._columns = columns
        self._kernels = TileKernels("adder_tiles", AdderTilesShape(columns.groups, columns.size))

    def __call__(self, x: Tensor, cut: RowTiles) -> tuple[Tensor, Tensor, bool]:
        """The tiles of float32 rows ``[R, K]``, their sums, and whether all values are of moderate magnitude."""
        columns = self._columns
        rows = columns.pad(lengthen(x, -2, cut.total)).view(cut.tiles, cut.rows, columns.groups, columns.size)
        transposed = torch.empty(cut.tiles, columns.groups, columns.size, cut.rows)
        sums = torch.empty(cut.tiles, columns.groups, cut.rows)
        largest = torch.zeros(cut.tiles, cut.rows, dtype=torch.int32)
        self._kernels(cut)(rows, transposed, sums, largest)
        return transposed, sums, int(largest.max()) < LARGEST_BITS


class Templates:
    """Templates in tiles, and the kernels that measure distances to them."""

    def __init__(self, weight: Tensor) -> None:
        self._n, columns, lanes = len(weight), even_groups(weight.shape[1]), machine().lanes
        self._blocks = (block_count(self._n, lanes), lanes)
        self._rows = TransposedRows(columns)
        blocks = RowTiles(*self._blocks, many=True)
        tiles, sums, self._moderate = self._rows(float_rows(weight.detach()), blocks)
        self._operands = (from_dlpack(tiles), from_dlpack(sums))
        shape = AdderShape(self._blocks[0], columns.groups, columns.size, lanes)
        self._minima = TileKernels("adder_linear", shape)
        self._differences = TileKernels("adder_linear", replace(shape, direct=True))

    def distances(self, x: Tensor) -> Tensor:
        """Float32 rows ``[M, K]`` to ``[M, N]``, not positive."""
        cut = RowTiles.of(len(x))
        tiles, sums, moderate = self._rows(x, cut)
        kernels = self._minima if moderate and self._moderate else self._differences
        y = torch.empty(cut.tiles, cut.rows, *self._blocks)
        kernels(cut)(tiles, sums, *self._operands, y)
        return whole_rows(y, len(x), self._n)


class GradientTemplates:
    """Templates as their gradient reads them, in vectors of columns, and the kernels that do."""

    def __init__(self, weight: Tensor) -> None:
        n, self._k = weight.shape
        lanes, self._templates = machine().lanes, even_groups(n, _TEMPLATES_AT_ONCE)
        groups, size = self._templates.groups, self._templates.size
        self._blocks = (block_count(self._k, lanes), lanes)
        whole = lengthen(self._in_vectors(float_rows(weight.detach())), -2, groups * size)
        # Vectors of neighbouring templates side by side: rows of a matrix may lie so that few of them share a cache.
        vectors = whole.view(-1, *self._blocks).transpose(0, 1).contiguous()
        self._operand = from_dlpack(vectors.view(self._blocks[0], groups, size, lanes))
        self._kernels = TileKernels("adder_input_gradient", AdderGradientShape(self._blocks[0], groups, size, lanes))

    def gradient(self, grad: Tensor, x: Tensor) -> Tensor:
        """Float32 gradients ``[M, N]`` and rows ``[M, K]`` to gradients ``[M, K]``."""
        cut = RowTiles.of(len(x))
        tiles = (cut.tiles, cut.rows)
        rows = lengthen(self._in_vectors(x), -2, cut.total).view(*tiles, *self._blocks)
        grads = self._templates.pad(lengthen(grad, -2, cut.total)).view(*tiles, self._templates.groups, -1)
        y = torch.empty_like(rows)
        self._kernels(cut)(grads, rows, self._operand, y)
        return whole_rows(y, len(x), self._k)

    def _in_vectors(self, x: Tensor) -> Tensor:
        return lengthen(x, -1, self._blocks[0] * self._blocks[1])


_templates, _gradient_templates = Operands(Templates), Operands(GradientTemplates)


def adder_linear(x: Tensor, weight: Tensor) -> Tensor:
    """See :func:`shiftadd_transformers.operators.adder_linear`.

    With u the unit roundoff of float32, a result errs by at most ``(192 + K / 64) u sum_k (|x| + |w|)``.

    Raises:
        MissingKernelError: an operand is float64.
    """
    refuse_float64("adder_linear", x, weight)
    return like_input(_templates.get((weight,), ()).distances(float_rows(x)), x)


def adder_input_gradient(grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """See :func:`shiftadd_transformers.operators.adder.adder_input_gradient`.

    With u the unit roundoff of float32, a result errs by at most ``(129 + N / 128) u sum_n |gradient|``.

    Raises:
        MissingKernelError: an operand is float64.
    """
    refuse_float64("adder_input_gradient", x, weight)
    templates = _gradient_templates.get((weight,), ())
    return like_input(templates.gradient(float_rows(grad), float_rows(x)), x)
