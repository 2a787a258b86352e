"""The kernels behind ``shiftadd::bcq_linear``; weights whose sums are floats are laid out in `bcq_float`."""

from __future__ import annotations

import torch
from torch import Tensor
from tvm_ffi import from_dlpack

from shiftadd_transformers.operators.bcq_tables import table_codes, table_levels

from ..kernels import Kernel
from ..layouts.activation import RowTiles
from ..layouts.bcq import LANES, LookupShape, TablesShape, register_bytes, tile_lookup_codes
from .bcq_float import FloatWeight
from .machine import machine
from .missing import MissingKernelError
from .operands import Operands
from .rows import KeptBuffers, TileKernels, float_rows, like_input, tiled_bias, whole_rows

_MOST_COLUMNS = 132104
"""Up to here a sum of entries fits 32 bits whatever they are."""
_MOST_ROWS = 192
"""Rows whose tables are built at once: as many bytes as a few megabytes of cache hold."""


class TableBuffers:
    """Tables, factors and units of rows, in the shapes that both sides read them in."""

    def __init__(self, tables: TablesShape, lookup: LookupShape, m: int) -> None:
        self.cut = cut = RowTiles.of(m)
        words = torch.empty(cut.total, tables.columns * tables.words, dtype=getattr(torch, f"int{tables.word_bits}"))
        factors = torch.empty(cut.total, tables.columns, dtype=torch.int8 if tables.negated else torch.uint8)
        units = torch.empty(cut.total)
        self.flat = (
            words[:m].view(m, tables.chunks, LANES, tables.words),
            factors[:m].view(m, tables.chunks, LANES),
            units[:m],
        )
        self.tiled = (
            words.view(torch.int64).view(cut.tiles, cut.rows, lookup.steps, lookup.registers, lookup.words),
            factors.view(cut.tiles, cut.rows, lookup.steps, lookup.vectors, 4),
            units.view(cut.tiles, cut.rows),
        )


class LookupWeight:
    """A weight whose products are read from 8-bit tables."""

    def __init__(self, planes_packed: Tensor, scale_codes: Tensor, bias: Tensor | None, k: int) -> None:
        planes, self.n, _ = planes_packed.shape
        target, levels = machine(), table_levels(scale_codes)
        codes = tile_lookup_codes(table_codes(planes_packed, k), planes, target.lanes)
        self._shape = tables = TablesShape.of(k, planes, target)
        blocks, steps = codes.shape[:2]
        register = register_bytes(planes, target)
        shape = LookupShape(planes, register, blocks, steps, target.lanes, tables.negated, bias is not None)
        top = levels.abs().amax(0, keepdim=True)
        self._levels = [from_dlpack(t) for t in (tables.pad(top)[0], tables.pad(levels[: len(levels) // 2]))]
        self._operands = [from_dlpack(t) for t in (codes, tiled_bias(bias, self.n, target.lanes))]
        self._blocks = (blocks, target.lanes)
        self._tables = Kernel("bcq_tables", tables, target).function()
        self._kernels = TileKernels("bcq_lookup", shape)
        self._buffers = KeptBuffers(lambda m: TableBuffers(tables, shape, m))

    def product(self, x: Tensor) -> Tensor:
        """Float32 rows ``[M, K]`` to ``[M, N]``."""
        if len(x) > _MOST_ROWS:
            return torch.cat([self.product(rows) for rows in x.split(_MOST_ROWS)])
        buffers = self._buffers(len(x))
        self._tables(self._shape.pad(x), *self._levels, *buffers.flat)
        y = torch.empty(buffers.cut.tiles, buffers.cut.rows, *self._blocks)
        self._kernels(buffers.cut)(*buffers.tiled, *self._operands, y)
        return whole_rows(y, len(x), self.n)


_lookup_weights, _float_weights = Operands(LookupWeight), Operands(FloatWeight)


def bcq_linear(
    x: Tensor,
    planes_packed: Tensor,
    scale_codes: Tensor,
    bias: Tensor | None,
    row_group: int,
    col_group: int,
    activation_bits: int = 0,
) -> Tensor:
    """See :func:`shiftadd_transformers.operators.bcq_linear`.

    With ``activation_bits=8`` the result equals PyTorch's to the bit. In floats planes are summed apart, so that a sum
    on the way may be ``4 * 2**P`` times as large as the largest product, and overflow where that does; and a row that
    holds an infinity may become NaN where PyTorch gives an infinity, never the other way round.

    Raises:
        MissingKernelError: float64, no planes, or too many columns for sums of tables in 32 bits.
    """
    k, tensors = x.shape[-1], (planes_packed, scale_codes, bias)
    if activation_bits:
        if k > _MOST_COLUMNS:
            raise MissingKernelError(f"bcq_linear has no kernel for more than {_MOST_COLUMNS} columns, got {k}")
        weight = _lookup_weights.get(tensors, (k,))
    elif x.dtype == torch.float64 or not len(planes_packed):
        raise MissingKernelError(
            f"bcq_linear has no kernel for {x.dtype} and {len(planes_packed)} planes: use float32 and a plane"
        )
    else:
        weight = _float_weights.get(tensors, (k, row_group, col_group))
    return like_input(weight.product(float_rows(x)), x)
