"""Templates of the adder layer: bytes on a grid or floats, in lanes of outputs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..targets import Target
from .activation import RowsShape
from .padding import lengthen
from .shift import block_count

_SIGN = 0x80
"""Turned over, this bit raises codes -128..127 to 0..255: machines measure distances between unsigned bytes."""
_GROUP = 64
"""Columns that are summed before their sum joins the total. More let errors grow; fewer cost time between groups."""
LARGEST_BITS = 0x72000000
"""Bits of the float ``2**101``; sums of magnitudes below it are finite in groups of any length that there is."""


@dataclass(frozen=True)
class AdderInt8Shape:
    """Static shape of one adder kernel on the grid.

    Args:
        blocks: rows of ``lanes`` outputs.
        chunks: steps of ``width`` columns.
        lanes: outputs of one block.
        width: columns whose distances a machine adds up in one lane at once.
        rows: rows of one tile.
        many_rows: whether there are many tiles.
    """

    blocks: int
    chunks: int
    lanes: int
    width: int
    rows: int = 1
    many_rows: bool = False

    @classmethod
    def of(cls, n: int, columns: int, target: Target) -> AdderInt8Shape:
        """The shape for ``n`` templates of ``columns`` bytes, a multiple of 8.

        A lane sums eight bytes on x86, four on ARM. Where no instruction adds across bytes it sums one.
        """
        if target.has("avx2"):
            lanes, width = target.lanes // 2, 8
        else:
            lanes, width = (4, 4) if target.has("neon") else (16, 1)
        return cls(block_count(n, lanes), columns // width, lanes, width)

    @property
    def total(self) -> str:
        """The integer that fills a lane."""
        return "int64" if self.width == 8 else "int32"


@dataclass(frozen=True)
class AdderShape:
    """Static shape of one adder kernel on floats.

    Args:
        blocks: rows of ``lanes`` outputs.
        groups: groups of columns that are summed on their own.
        size: columns of a group.
        lanes: outputs of one block.
        direct: whether differences are formed, for operands of any magnitude, or minima, which are faster.
        rows: rows of one tile.
        many_rows: whether there are many tiles.
    """

    blocks: int
    groups: int
    size: int
    lanes: int
    direct: bool = False
    rows: int = 1
    many_rows: bool = False


@dataclass(frozen=True)
class AdderTilesShape:
    """Static shape of rows in tiles, column after column.

    Args:
        groups: groups of columns that are summed on their own.
        size: columns of a group.
        rows: rows of one tile.
        many_rows: whether there are many tiles.
    """

    groups: int
    size: int
    rows: int = 1
    many_rows: bool = False


@dataclass(frozen=True)
class AdderGradientShape:
    """Static shape of one kernel for the gradient of the rows.

    Args:
        blocks: vectors of ``lanes`` columns.
        groups: groups of templates that are summed on their own.
        size: templates of a group.
        lanes: columns of one vector.
        rows: rows of one tile.
        many_rows: whether there are many tiles.
    """

    blocks: int
    groups: int
    size: int
    lanes: int
    rows: int = 1
    many_rows: bool = False


def even_groups(length: int, most: int = _GROUP) -> RowsShape:
    """Cut ``length`` columns into groups of one size, with fewer columns of padding than groups.

    >>> even_groups(768), even_groups(100)
    (RowsShape(groups=12, size=64, width=64), RowsShape(groups=2, size=50, width=50))
    """
    groups = -(-length // most) or 1
    size = -(-length // groups) or 1
    return RowsShape(groups, size, size)


def tile_templates(codes: Tensor, columns: RowsShape, shape: AdderInt8Shape) -> Tensor:
    """Templates int8 ``[N, K]`` as uint8 ``[blocks, chunks, lanes * width]``, raised by 128.

    Padding stands for zero, as does that of the activations.
    """
    whole = columns.pad(lengthen(codes, -2, shape.blocks * shape.lanes))
    raised = whole.view(torch.uint8) ^ _SIGN
    lanes = raised.view(shape.blocks, shape.lanes, shape.chunks, shape.width).transpose(1, 2)
    return lanes.reshape(shape.blocks, shape.chunks, shape.lanes * shape.width).contiguous()
