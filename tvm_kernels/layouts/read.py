"""Bytes that are only read, to learn how fast memory is."""

from __future__ import annotations

from dataclasses import dataclass

PARTS = 64
"""Pieces that threads share; many, so that any number of threads has equal work."""
STREAMS = 4
"""Vectors that are summed side by side, so that no sum waits for the one before."""


@dataclass(frozen=True)
class ReadShape:
    """Static shape of a read.

    Args:
        steps: steps of ``STREAMS`` vectors in each of ``PARTS`` pieces.
        lanes: 32-bit lanes of a vector.
    """

    steps: int
    lanes: int

    @classmethod
    def of(cls, nbytes: int, lanes: int) -> ReadShape:
        """The smallest shape of at least ``nbytes``.

        >>> ReadShape.of(8 << 20, 16)
        ReadShape(steps=512, lanes=16)
        """
        return cls(-(-nbytes // (PARTS * STREAMS * 4 * lanes)), lanes)

    @property
    def words(self) -> tuple[int, int, int, int]:
        """Shape of the int32 words."""
        return PARTS, self.steps, STREAMS, self.lanes

    @property
    def sums(self) -> tuple[int, int, int]:
        """Shape of their sums."""
        return PARTS, STREAMS, self.lanes
