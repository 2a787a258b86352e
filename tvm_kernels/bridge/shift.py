"""The kernels behind ``shiftadd::shift_linear``."""

from __future__ import annotations

import torch
from torch import Tensor
from tvm_ffi import from_dlpack

from shiftadd_transformers.operators import Po2Format
from shiftadd_transformers.operators.exponent_bits import power_of_two
from shiftadd_transformers.operators.packing import unpack_codes

from ..layouts.activation import RowsShape
from ..layouts.shift import Codebook, ShiftShape, tile_codes, tile_columns
from .machine import machine
from .operands import Operands
from .rows import QuantizedRows, TileKernels, float_rows, like_input, whole_rows


class IntegerWeight:
    """One weight in tiles, and the kernels that read it."""

    def __init__(
        self,
        packed: Tensor,
        exponent: Tensor,
        bias: Tensor | None,
        k: int,
        bits: int,
        terms: int,
        zero: bool,
        group_size: int,
    ) -> None:
        self.n, lanes = packed.shape[0], machine().lanes
        self.rows = QuantizedRows(RowsShape.of(k, group_size))
        book = Codebook.of(levels(Po2Format(bits, terms, zero)), machine())
        codes = tile_codes(unpack_codes(packed, bits, k), self.rows.shape, lanes, book.code_bits)
        scale = power_of_two(exponent, torch.float32)
        scale = tile_columns(scale if scale.shape[1] else scale.new_zeros(self.n, 1), lanes)
        vector = torch.zeros(self.n) if bias is None else bias.detach().to(torch.float32)
        vector = tile_columns(vector.unsqueeze(1), lanes).squeeze(1)
        self._blocks = (codes.shape[0], lanes)
        self._arguments = [from_dlpack(t) for t in (codes, book.tables, book.offset, scale, vector)]
        blocks, groups, steps, _ = codes.shape
        shape = ShiftShape(
            blocks, groups, steps, lanes, book.code_bits, len(book.tables), book.raised, bias is not None
        )
        self._kernels = TileKernels("shift_linear", shape)

    def product(self, x: Tensor) -> Tensor:
        """Float32 rows ``[M, K]`` to ``[M, N]``."""
        rows = self.rows(x)
        y = torch.empty(rows.cut.tiles, rows.cut.rows, *self._blocks)
        self._kernels(rows.cut)(*rows.tiled, *self._arguments, y)
        return whole_rows(y, x.shape[0], self.n)


def levels(fmt: Po2Format) -> Tensor:
    """The integer that each code of a format stands for."""
    positive = torch.tensor(fmt.magnitudes)
    return torch.cat([positive, -positive])


_integer_weights = Operands(IntegerWeight)


def shift_linear(
    x: Tensor,
    weight_packed: Tensor,
    weight_exponent: Tensor,
    bias: Tensor | None,
    bits: int,
    terms: int,
    zero: bool,
    group_size: int,
    activation_bits: int,
) -> Tensor:
    """See :func:`shiftadd_transformers.operators.shift_linear`."""
    tensors = (weight_packed, weight_exponent, bias)
    weight = _integer_weights.get(tensors, (x.shape[-1], bits, terms, zero, group_size))
    return like_input(weight.product(float_rows(x)), x)
