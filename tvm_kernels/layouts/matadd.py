"""Products with a binary operand: how much of them is computed at a time.

No operand is a weight. Both change with every call, and so does the number of tokens, so every axis of a kernel is
free and one compiled kernel serves sentences of all lengths. Where tiles of rows or vectors of outputs do not divide a
result, the last one overlaps its neighbour and computes some outputs twice: nothing as long as a result is padded or
copied. Only what is shorter than one vector is padded.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..targets import Target

_MOST_VECTORS = 2
_ROWS = 4  # times two registers: as many sums side by side as hide the latency of an addition


@dataclass(frozen=True)
class TableShape:
    """Static shape of a kernel that reads sums of four values from tables in memory.

    Args:
        lanes: values of a vector register.
        vectors: registers that one entry of a table fills.
        rows: rows of signs that are looked up together.
        right: whether the signs are the right operand, so that values and results lie transposed.
    """

    lanes: int
    vectors: int
    rows: int
    right: bool = False

    @classmethod
    def of(cls, n: int, target: Target, right: bool = False) -> TableShape:
        """For ``n`` values side by side: few slices of few registers, where each look-up costs about one more.

        >>> from tvm_kernels.targets import target
        >>> [TableShape.of(n, target("icelake-server")).vectors for n in (7, 48, 64, 16)]
        [1, 2, 2, 1]
        """
        most = min(_MOST_VECTORS, n // target.lanes or 1)
        vectors = min(range(most, 0, -1), key=lambda v: -(-n // (v * target.lanes)) * (v + 1))
        return cls(target.lanes, vectors, _ROWS, right)

    @property
    def width(self) -> int:
        """Values of one entry."""
        return self.lanes * self.vectors


@dataclass(frozen=True)
class RegisterShape:
    """Static shape of a kernel that looks sums of four columns up in a vector register; the signs are on the right.

    Args:
        lanes: outputs of a vector register.
        rows: rows of values that the same signs pass together.
    """

    lanes: int
    rows: int = 8

    @property
    def entries(self) -> int:
        """Entries of a table: it fills one register."""
        return self.lanes

    @property
    def folded(self) -> bool:
        """Whether a table holds only those sums that add their last column; the others are their negatives."""
        return self.entries == 8
