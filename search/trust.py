"""May the supernet be believed? Its ranking of plans beside that of plans which were really trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import kendalltau

from .objectives import Objective
from .pareto import Point


@dataclass(frozen=True)
class Agreement:
    """How two rankings of the same plans agree.

    Args:
        tau: Kendall's τ (b, which allows for ties): 1 is the same order, 0 none in common, −1 the reverse.
        p: Probability of so large a |τ| between rankings that have nothing to do with each other.
        plans: How many were ranked.
    """

    tau: float
    p: float
    plans: int

    def warning(self, least: float) -> str | None:
        """What to say where the supernet is not to be trusted; None if it is."""
        if self.tau >= least:
            return None
        return (
            f"Kendall's τ between the supernet's scores and retrained plans is {self.tau:.2f} over {self.plans} plans, "
            f"below {least:g}: the order of plans on this front says little. Train the supernet longer, train the "
            "sample longer (short trainings of plans are noisy, too), or leave operators out that it does not learn"
        )


def agreement(scores: Sequence[float], retrained: Sequence[float]) -> Agreement:
    """Compare two lists of numbers about the same plans, both better in the same direction.

    Raises:
        ValueError: Fewer than two plans, or lists of different lengths.

    >>> round(agreement([1, 2, 3, 4], [10, 20, 40, 30]).tau, 2)
    0.67
    """
    if len(scores) < 2 or len(scores) != len(retrained):
        raise ValueError(f"a ranking needs the same two plans or more, not {len(scores)} and {len(retrained)} numbers")
    result = kendalltau(scores, retrained)
    # All plans equal: no order, so nothing in common.
    tau = 0.0 if result.statistic != result.statistic else float(result.statistic)
    return Agreement(tau, 1.0 if result.pvalue != result.pvalue else float(result.pvalue), len(scores))


def spread_sample(objective: Objective, points: Sequence[Point], count: int) -> list[Point]:
    """Points at equal distances in the ranking by an objective: good, middling and bad plans alike.

    Fewer if there are not so many that were measured.
    """
    measured = [point for point in points if point.scores[objective.name] is not None]
    ranked = sorted(measured, key=lambda point: (objective.sign * (point.scores[objective.name] or 0.0), point.number))
    if len(ranked) <= count:
        return ranked
    return [ranked[round(i * (len(ranked) - 1) / (count - 1))] for i in range(count)]
