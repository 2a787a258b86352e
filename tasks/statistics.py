"""How sure is a measured share, or a mean over seeds?  95 % intervals, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Sequence

CONFIDENCE = 0.95


def wilson(hits: int, trials: int) -> tuple[float, float]:
    """Interval for a probability, from so many hits in so many trials.

    Unlike the usual plus or minus, it stays between 0 and 1 and is right for rare misses.

    Examples:
        >>> low, high = wilson(98, 100)
        >>> f"{low:.3f} {high:.3f}"
        '0.930 0.994'

    References:
        Wilson, Probable inference, the law of succession, and statistical inference, 1927.
    """
    from scipy.stats import norm

    z = float(norm.ppf(0.5 + CONFIDENCE / 2))
    share, weight = hits / trials, z * z / trials
    middle = (share + weight / 2) / (1 + weight)
    half = z / (1 + weight) * math.sqrt(share * (1 - share) / trials + weight / (4 * trials))
    return max(0.0, middle - half), min(1.0, middle + half)


def t_interval(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean, and half the width of its interval over independent repetitions; None for a single one.

    Examples:
        >>> mean, half = t_interval([1.0, 2.0, 3.0])
        >>> mean, round(half, 3)
        (2.0, 2.484)
    """
    from scipy.stats import t

    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, None
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
    return mean, float(t.ppf(0.5 + CONFIDENCE / 2, len(values) - 1)) * deviation / math.sqrt(len(values))
