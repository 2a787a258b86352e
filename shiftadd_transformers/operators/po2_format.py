"""Which magnitudes does a power-of-two code have, and where are the borders between them?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise, product

import torch
from torch import Tensor

MIN_EXPONENT, MAX_EXPONENT = -126, 120
MIN_BITS, MAX_BITS = 2, 5

# Interleaved term powers of additive powers of two, as integers (APoT, Li et al. 2020, §2.2 and its released code).
_APOT_TERMS: dict[tuple[int, int], tuple[tuple[int, ...], ...]] = {
    (3, 2): ((0, 2), (0, 1)),
    (4, 2): ((0, 8, 4, 1), (0, 2)),
    (5, 2): ((0, 32, 8, 2), (0, 16, 4, 1)),
    (4, 3): ((0, 4), (0, 2), (0, 1)),
    (5, 3): ((0, 16, 4, 1), (0, 8), (0, 2)),
}


def _one_term(bits: int, zero: bool) -> tuple[int, ...]:
    count = 1 << (bits - 1)
    return (0, *(1 << i for i in range(count - 1))) if zero else tuple(1 << i for i in range(count))


def _borders(magnitudes: tuple[int, ...], terms: int) -> tuple[float, ...]:
    return tuple(math.sqrt(2) * a if terms == 1 and a > 0 else (a + b) / 2 for a, b in pairwise(magnitudes))


# Tables instead of cached properties: torch.compile traces a look-up, but not the lock of a cached property.
_MAGNITUDES: dict[tuple[int, int, bool], tuple[int, ...]] = {
    (bits, 1, zero): _one_term(bits, zero) for bits in range(MIN_BITS, MAX_BITS + 1) for zero in (True, False)
} | {
    (bits, terms, True): tuple(sorted(sum(parts) for parts in product(*powers)))
    for (bits, terms), powers in _APOT_TERMS.items()
}
_THRESHOLDS = {key: _borders(magnitudes, key[1]) for key, magnitudes in _MAGNITUDES.items()}


@dataclass(frozen=True)
class Po2Format:
    """The set of values that one weight code can take.

    A code is ``sign << (bits-1) | index`` and means ``sign * magnitudes[index] * 2**exponent``. Zero has sign 0.

    Args:
        bits: bits of one code, sign included, 2 to 5.
        terms: how many powers of two are added in one magnitude, 1 to 3 (one shift each).
        zero: whether zero is representable; only one-term formats can do without it.

    Raises:
        ValueError: no such format.

    >>> Po2Format(3).magnitudes
    (0, 1, 2, 4)
    >>> Po2Format(3, zero=False).magnitudes
    (1, 2, 4, 8)
    >>> Po2Format(4, terms=2).magnitudes
    (0, 1, 2, 3, 4, 6, 8, 10)

    References: DeepShift (Elhoushi et al., 2021); DenseShift (Li et al., 2023) for the format without zero;
    APoT (Li et al., ICLR 2020) for several terms.
    """

    bits: int
    terms: int = 1
    zero: bool = True

    def __post_init__(self) -> None:
        """Reject formats that do not exist, with the nearest way out."""
        if not MIN_BITS <= self.bits <= MAX_BITS:
            raise ValueError(f"bits must lie in {MIN_BITS}..{MAX_BITS}, got {self.bits}")
        if self._key in _MAGNITUDES:
            return
        if (self.bits, self.terms) in _APOT_TERMS:
            raise ValueError("a format without zero has one term: use terms=1 or zero=True")
        known = ", ".join(f"bits={b} terms={t}" for b, t in sorted(_APOT_TERMS))
        raise ValueError(f"no format with bits={self.bits} terms={self.terms}: use terms=1, or one of {known}")

    @property
    def _key(self) -> tuple[int, int, bool]:
        return (self.bits, self.terms, self.zero)

    @property
    def magnitudes(self) -> tuple[int, ...]:
        """``2**(bits-1)`` ascending integers; the index is the magnitude part of the code."""
        return _MAGNITUDES[self._key]

    @property
    def thresholds(self) -> tuple[float, ...]:
        """Decision points between neighbouring magnitudes; a value on one goes to the larger magnitude.

        Between two powers of a one-term format it is the geometric mean (rounding in the log domain), else the
        arithmetic mean.
        """
        return _THRESHOLDS[self._key]

    @property
    def top(self) -> int:
        """The largest magnitude."""
        return self.magnitudes[-1]


def group_count(k: int, group_size: int | None) -> int:
    """Number of exponents per row: ``ceil(k / group_size)``, or 1 for one scale per row.

    Args:
        k: row length.
        group_size: weights that share an exponent; ``None`` means the whole row.

    Returns:
        the number of groups.

    Raises:
        ValueError: ``group_size`` is not positive.

    >>> group_count(100, 32), group_count(100, None)
    (4, 1)
    """
    if group_size is None:
        return 1
    if group_size < 1:
        raise ValueError(f"group_size must be at least 1 (None for one scale per row), got {group_size}")
    return -(-k // group_size)


def threshold_tensor(fmt: Po2Format, like: Tensor) -> Tensor:
    """Thresholds rounded up to the dtype of ``like``, so that every dtype decides as the real numbers would."""
    exact = torch.tensor(fmt.thresholds, dtype=torch.float64)
    near = exact.to(like.dtype)
    up = torch.nextafter(near, torch.full_like(near, torch.inf))
    return torch.where(near.to(torch.float64) < exact, up, near).to(like.device)


def check_weight(weight: Tensor) -> None:
    """Raise unless ``weight`` is a floating matrix."""
    if weight.ndim != 2 or not weight.is_floating_point():
        raise ValueError(f"weight must be a floating [N, K] matrix, got {weight.dtype} {tuple(weight.shape)}")


def check_finite(values: Tensor) -> None:
    """Raise if a value is NaN or infinite (reads one flag back from the device, so not while compiling)."""
    if not torch.compiler.is_compiling() and not bool(torch.isfinite(values).all()):
        raise ValueError("the values hold NaN or infinity: repair them (or lower the learning rate) before rounding")
