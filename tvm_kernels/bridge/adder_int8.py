"""The kernels behind ``shiftadd::adder_linear_int8``, and its cascade ``shiftadd::shift_add_linear``."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from tvm_ffi import from_dlpack

from shiftadd_transformers.operators.exponent_bits import power_of_two

from ..kernels import Kernel
from ..layouts.activation import RowsShape, RowTiles
from ..layouts.adder import AdderInt8Shape, tile_templates
from .machine import machine
from .missing import MissingKernelError
from .operands import Operands
from .rows import KeptBuffers, TileKernels, float_rows, like_input, whole_rows
from .shift import shift_linear

_MOST_COLUMNS = (1 << 31) // 256
"""Up to here a sum of distances fits 32 bits whatever they are."""


class GridBuffers:
    """Codes of rows on the grid and scales of their results, in the shapes that both sides read them in."""

    def __init__(self, columns: RowsShape, shape: AdderInt8Shape, m: int) -> None:
        self.cut = cut = RowTiles.of(m)
        codes = torch.empty(cut.total, 1, columns.chunks, columns.lanes, dtype=torch.uint8)
        scale = torch.empty(cut.total)
        self.flat = (codes[:m], scale[:m])
        self.tiled = (codes.view(cut.tiles, cut.rows, shape.chunks, shape.width), scale.view(cut.tiles, cut.rows))


class GridTemplates:
    """Templates on the grid in tiles, and the kernels that measure distances to them."""

    def __init__(self, codes: Tensor) -> None:
        self._n, columns = len(codes), RowsShape.of(codes.shape[1], 0)
        shape = AdderInt8Shape.of(self._n, columns.width, machine())
        self._columns, self._blocks = columns, (shape.blocks, shape.lanes)
        self._operand = from_dlpack(tile_templates(codes.contiguous(), columns, shape))
        self._quantize = Kernel("quantize_grid", columns, machine()).function()
        self._kernels = TileKernels("adder_linear_int8", shape)
        self._buffers = KeptBuffers(lambda m: GridBuffers(columns, shape, m))

    def distances(self, x: Tensor, grid: Tensor) -> Tensor:
        """Float32 rows ``[M, K]`` to ``[M, N]``, not positive."""
        columns, buffers = self._columns, self._buffers(len(x))
        self._quantize(columns.pad(x).view(-1, 1, columns.chunks, columns.lanes), grid, *buffers.flat)
        y = torch.empty(buffers.cut.tiles, buffers.cut.rows, *self._blocks)
        self._kernels(buffers.cut)(*buffers.tiled, self._operand, y)
        return whole_rows(y, len(x), self._n)


_grid_templates = Operands(GridTemplates)


def adder_linear_int8(x: Tensor, weight_packed: Tensor, exponent: Tensor) -> Tensor:
    """See :func:`shiftadd_transformers.operators.adder_linear_int8`; equals PyTorch's result to the bit.

    Raises:
        MissingKernelError: too many columns for sums in 32 bits.
    """
    if x.shape[-1] > _MOST_COLUMNS:
        raise MissingKernelError(
            f"adder_linear_int8 has no kernel for more than {_MOST_COLUMNS} columns, got {x.shape[-1]}"
        )
    templates = _grid_templates.get((weight_packed,), ())
    return like_input(templates.distances(float_rows(x), _grid(int(exponent))), x)


def shift_add_linear(
    x: Tensor,
    weight_packed: Tensor,
    weight_exponent: Tensor,
    adder_weight: Tensor,
    adder_exponent: Tensor,
    bits: int,
    terms: int,
    zero: bool,
    group_size: int,
) -> Tensor:
    """See :func:`shiftadd_transformers.operators.shift_add_linear`: the two kernels one after the other.

    Hidden values differ from PyTorch's by the rounding of their sums, and so may, by one, their places on the grid.

    Raises:
        MissingKernelError: float64.
    """
    hidden = shift_linear(x, weight_packed, weight_exponent, None, bits, terms, zero, group_size, 0)
    return adder_linear_int8(hidden, adder_weight, adder_exponent)


@cache
def _grid(exponent: int) -> Tensor:
    """What activations are multiplied by, and what distances are; both exact."""
    return power_of_two(torch.tensor([-exponent, exponent]), torch.float32) * torch.tensor([1.0, -1.0])
