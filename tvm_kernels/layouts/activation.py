"""Rows of 8-bit activations."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch.nn.functional as F
from torch import Tensor

FEW_ROWS = 16
"""Up to here a weight is decoded anew for every tile of rows, which costs less than room for the decoded weight."""
_TILE = 8


@dataclass(frozen=True)
class RowsShape:
    """Static shape of quantised rows: ``[M, groups, width]``, every group padded to ``width``.

    Args:
        groups: weight groups along K, each with its own sum of codes.
        size: columns of a group that mean something.
        width: columns of a group with padding, a multiple of 8.
    """

    groups: int
    size: int
    width: int

    @classmethod
    def of(cls, k: int, group_size: int) -> RowsShape:
        """The shape for ``k`` columns; ``group_size`` 0 means a single group.

        >>> RowsShape.of(100, 0), RowsShape.of(100, 64)
        (RowsShape(groups=1, size=100, width=112), RowsShape(groups=2, size=64, width=64))
        """
        size = min(group_size or k, k) or 1
        unit = 8 if size % 8 == 0 else 16
        return cls(-(-k // size) or 1, size, -(-size // unit) * unit)

    @property
    def lanes(self) -> int:
        """Columns that a kernel takes at once."""
        return 16 if self.width % 16 == 0 else 8

    @property
    def chunks(self) -> int:
        """Steps of ``lanes`` columns in a group."""
        return self.width // self.lanes

    def pad(self, columns: Tensor) -> Tensor:
        """``[R, K]`` as ``[R, groups, width]`` with zeros in the gaps; itself where there are none."""
        k = columns.shape[-1]
        if k == self.groups * self.width:
            return columns
        grouped = F.pad(columns, (0, self.groups * self.size - k)).unflatten(-1, (self.groups, self.size))
        return F.pad(grouped, (0, self.width - self.size))


@dataclass(frozen=True)
class RowTiles:
    """Rows cut into equal tiles; those behind the last row are computed and dropped.

    Args:
        tiles: number of tiles.
        rows: rows of one tile.
        many: whether there are many tiles.
    """

    tiles: int
    rows: int
    many: bool

    @classmethod
    @cache
    def of(cls, rows: int) -> RowTiles:
        """Few rows share one or two tiles that fit them; many rows are cut into tiles of one size.

        >>> RowTiles.of(1), RowTiles.of(9)
        (RowTiles(tiles=1, rows=1, many=False), RowTiles(tiles=2, rows=5, many=False))
        >>> RowTiles.of(512)
        RowTiles(tiles=64, rows=8, many=True)
        """
        if rows > FEW_ROWS:
            return cls(-(-rows // _TILE), _TILE, True)
        tiles = -(-rows // _TILE) or 1
        return cls(tiles, -(-rows // tiles) or 1, False)

    @property
    def total(self) -> int:
        """Rows of all tiles."""
        return self.tiles * self.rows
