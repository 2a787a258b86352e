"""Distances between queries and keys of many heads: how many are held in registers at a time."""

from __future__ import annotations

from dataclasses import dataclass

from ..targets import Target


@dataclass(frozen=True)
class HeadDistancesShape:
    """Static shape of a kernel; heads, tokens and their width are free.

    Args:
        lanes: keys of a vector register.
        vectors: registers of keys that a tile takes.
        rows: queries that a tile takes.
    """

    lanes: int
    vectors: int
    rows: int

    @classmethod
    def of(cls, sources: int, target: Target) -> HeadDistancesShape:
        """For so many keys: two registers of them where they fill them, and as many queries as leave some over.

        >>> from tvm_kernels.targets import target
        >>> [HeadDistancesShape.of(n, target("haswell")) for n in (4, 196)]
        [HeadDistancesShape(lanes=8, vectors=1, rows=6), HeadDistancesShape(lanes=8, vectors=2, rows=6)]
        """
        wide = target.has("avx512") or target.has("neon")
        return cls(target.lanes, 2 if sources > target.lanes else 1, 8 if wide else 6)

    @property
    def width(self) -> int:
        """Keys of a tile."""
        return self.lanes * self.vectors
