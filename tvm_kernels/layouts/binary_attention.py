"""Linear attention by bits: how much of it is held in registers at a time."""

from __future__ import annotations

from dataclasses import dataclass

from ..targets import Target


@dataclass(frozen=True)
class BinaryAttentionShape:
    """Static shape of a kernel; heads and tokens are free.

    Args:
        width: elements of a query.
        lanes: values of a vector register.
        vectors: registers that a row of values fills.
        rows: rows of results that are summed side by side.
        binary: codes are 0 and 1; otherwise −1 and 1.
    """

    width: int
    lanes: int
    vectors: int
    rows: int
    binary: bool

    @classmethod
    def of(cls, width: int, values: int, binary: bool, target: Target) -> BinaryAttentionShape:
        """For queries and values of these widths: sums fill half of the registers.

        >>> from tvm_kernels.targets import target
        >>> [BinaryAttentionShape.of(64, n, True, target("skylake-avx512")).rows for n in (64, 32, 256, 5)]
        [4, 8, 1, 8]
        """
        vectors = -(-values // target.lanes)
        half = 16 if target.has("avx512") or target.has("neon") else 8
        rows = next(n for n in (8, 4, 2, 1) if width % n == 0 and (n * vectors <= half or n == 1))
        return cls(width, target.lanes, vectors, rows, binary)

    @property
    def values(self) -> int:
        """Values of a row, those that fill the last register included."""
        return self.lanes * self.vectors
