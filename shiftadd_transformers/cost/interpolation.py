"""How long does something take between the sizes that were measured? Power laws, and never beyond them."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping


def between(curve: Mapping[int, float], size: int) -> float | None:
    """The value of a power law through the two neighbours of a size.

    Args:
        curve: Measured values by size, sizes from 1.
        size: Where to look.

    Returns:
        The value; None beyond what was measured.

    >>> between({1: 2.0, 16: 8.0}, 4), between({1: 2.0, 16: 8.0}, 17)
    (4.0, None)
    """
    if size in curve:
        return curve[size]
    sizes = sorted(curve)
    above = bisect_left(sizes, size)
    if above in (0, len(sizes)):
        return None
    low, high = sizes[above - 1], sizes[above]
    part = math.log(size / low) / math.log(high / low)
    return curve[low] * (curve[high] / curve[low]) ** part


def between_pairs(points: Mapping[tuple[int, int], float], first: int, second: int) -> float | None:
    """The same for two sizes at once.

    Equal sizes are looked up among points of equal sizes, where there are enough of them: an attention of a sequence
    to itself grows along that diagonal. Otherwise one size after the other.

    Args:
        points: Measured values by pair of sizes.
        first: The first size.
        second: The second size.

    Returns:
        The value; None where the points do not enclose the pair.

    >>> between_pairs({(1, 1): 1.0, (4, 4): 16.0}, 2, 2)
    4.0
    >>> between_pairs({(1, 4): 1.0, (1, 16): 2.0, (4, 4): 4.0, (4, 16): 8.0}, 2, 8) == 8**0.5
    True
    """
    if first == second:
        diagonal = {a: value for (a, b), value in points.items() if a == b}
        found = between(diagonal, first)
        if found is not None:
            return found
    columns: dict[int, dict[int, float]] = {}
    for (a, b), value in points.items():
        columns.setdefault(b, {})[a] = value
    across = {b: between(curve, first) for b, curve in columns.items()}
    return between({b: value for b, value in across.items() if value is not None}, second)
