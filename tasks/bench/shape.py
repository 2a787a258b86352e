"""The axes of one product."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """``[M, K]`` times ``[K, N]``, ``batch`` times.

    >>> str(Shape(1, 4096, 4096)), str(Shape(196, 64, 196, batch=96))
    ('1×4096×4096', '96×(196×64×196)')
    """

    m: int
    k: int
    n: int
    batch: int = 1

    def __str__(self) -> str:
        product = f"{self.m}×{self.k}×{self.n}"
        return product if self.batch == 1 else f"{self.batch}×({product})"

    def as_json(self) -> dict[str, int]:
        """The axes by name; the batch only where there is one."""
        axes = {"m": self.m, "k": self.k, "n": self.n}
        return axes if self.batch == 1 else {"batch": self.batch, **axes}
