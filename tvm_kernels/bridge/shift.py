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
from ..layouts.shift_float import FieldFormat, FloatShiftShape, NormalRows, tile_words
from .activation import NormalizedRows, QuantizedRows
from .machine import machine
from .missing import MissingKernelError
from .operands import Operands
from .rows import TileKernels, float_rows, like_input, tiled_bias, whole_rows


class _TiledWeight:
    """A weight in tiles: rows are prepared, and kernels read both.

    Args:
        n: outputs.
        rows: prepares float32 rows ``[M, K]``.
        kernels: one kernel per size of row tile.
        operands: what kernels read beside the rows, the weight's blocks first.
    """

    def __init__(
        self, n: int, rows: QuantizedRows | NormalizedRows, kernels: TileKernels, operands: tuple[Tensor, ...]
    ) -> None:
        self.n, self._rows, self._kernels = n, rows, kernels
        self._blocks = (len(operands[0]), machine().lanes)
        self._operands = [from_dlpack(operand) for operand in operands]

    def product(self, x: Tensor) -> Tensor:
        """Float32 rows ``[M, K]`` to ``[M, N]``."""
        rows = self._rows(x)
        y = torch.empty(rows.cut.tiles, rows.cut.rows, *self._blocks)
        self._kernels(rows.cut)(*rows.tiled, *self._operands, y)
        return whole_rows(y, x.shape[0], self.n)


def _integer_weight(
    packed: Tensor, exponent: Tensor, bias: Tensor | None, k: int, fmt: tuple[int, int, bool], group_size: int
) -> _TiledWeight:
    """A weight whose products are exact integers."""
    n, lanes, layout = len(packed), machine().lanes, RowsShape.of(k, group_size)
    book = Codebook.of(levels(Po2Format(*fmt)), machine())
    codes = tile_codes(unpack_codes(packed, fmt[0], k), layout, lanes, book.code_bits)
    blocks, groups, steps, _ = codes.shape
    shape = ShiftShape(blocks, groups, steps, lanes, book.code_bits, len(book.tables), book.raised, bias is not None)
    scale = _tiled_scale(power_of_two(exponent, torch.float32), lanes)
    operands = (codes, book.tables, book.offset, scale, tiled_bias(bias, n, lanes))
    return _TiledWeight(n, QuantizedRows(layout), TileKernels("shift_linear", shape), operands)


def _float_weight(
    packed: Tensor, exponent: Tensor, bias: Tensor | None, k: int, fmt: tuple[int, int, bool], group_size: int
) -> _TiledWeight:
    """A weight whose powers are added to the exponents of floats."""
    n, lanes, layout = len(packed), machine().lanes, NormalRows.of(k, group_size)
    fields = FieldFormat.of(Po2Format(*fmt))
    words = tile_words(unpack_codes(packed, fmt[0], k), Po2Format(*fmt), layout, lanes)
    blocks, chunks, steps, _ = words.shape
    shape = FloatShiftShape(blocks, chunks, layout.per_group(group_size), steps, lanes, fields, bias is not None)
    scale = power_of_two(exponent.to(torch.int32) + (not fields.empty), torch.float32)
    operands = (words, _tiled_scale(scale, lanes), tiled_bias(bias, n, lanes))
    rows = NormalizedRows(layout, fields.columns)
    return _TiledWeight(n, rows, TileKernels("float_shift_linear", shape), operands)


def _tiled_scale(scale: Tensor, lanes: int) -> Tensor:
    """Scales ``[N, G]`` in tiles; a weight without columns has no group, but its kernel has."""
    return tile_columns(scale if scale.shape[1] else scale.new_zeros(len(scale), 1), lanes)


def levels(fmt: Po2Format) -> Tensor:
    """The integer that each code of a format stands for."""
    positive = torch.tensor(fmt.magnitudes)
    return torch.cat([positive, -positive])


_integer_weights, _float_weights = Operands(_integer_weight), Operands(_float_weight)


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
    """See :func:`shiftadd_transformers.operators.shift_linear`.

    With ``activation_bits=8`` the result equals PyTorch's to the bit. In floats every product is exact and sums are
    made in float32, 32 columns at a time; a row that holds an infinity or a NaN becomes NaN throughout, and what is
    smaller than the largest of its row by ``2**-125`` counts as zero.

    Raises:
        MissingKernelError: float64 without 8-bit activations.
    """
    if not activation_bits and x.dtype == torch.float64:
        raise MissingKernelError("shift_linear has no kernel for float64: use float32, or activation_bits=8")
    weights = _integer_weights if activation_bits else _float_weights
    tensors = (weight_packed, weight_exponent, bias)
    weight = weights.get(tensors, (x.shape[-1], (bits, terms, zero), group_size))
    return like_input(weight.product(float_rows(x)), x)
