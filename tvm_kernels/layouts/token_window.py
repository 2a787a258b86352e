"""Windows of tokens: how many results are held in registers at a time."""

from __future__ import annotations

from dataclasses import dataclass

from ..targets import Target


@dataclass(frozen=True)
class TokenWindowShape:
    """Static shape of a kernel; heads, tokens and taps are free.

    Args:
        lanes: values of a vector register.
        vectors: registers that a token fills.
        rows: tokens whose results are summed side by side.
        distance: sum −|x − w| in the place of x·w.
    """

    lanes: int
    vectors: int
    rows: int
    distance: bool

    @classmethod
    def of(cls, width: int, distance: bool, target: Target) -> TokenWindowShape:
        """For tokens of this width: about as many sums as hide the latency of one.

        >>> from tvm_kernels.targets import target
        >>> [TokenWindowShape.of(n, False, target("haswell")).rows for n in (64, 32, 8)]
        [1, 2, 8]
        """
        vectors = -(-width // target.lanes)
        return cls(target.lanes, vectors, max(1, 8 // vectors), distance)

    @property
    def width(self) -> int:
        """Values of a token, those that fill the last register included."""
        return self.lanes * self.vectors
