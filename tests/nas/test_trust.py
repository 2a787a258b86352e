"""How far two rankings agree, and which plans are compared."""

from __future__ import annotations

import random

import pytest
from nas.toys import cost, layers
from scipy import stats

from search import Objective, Point
from search.trust import agreement, spread_sample


def points(values):
    space = layers(4)
    rng = random.Random(0)
    made = []
    for number, value in enumerate(values):
        candidate = space.sample(rng)
        made.append(Point(candidate, space.to_plan(candidate), {"quality": value}, 0.0, number))
    return made


def test_tau_is_kendalls():
    rng = random.Random(3)
    a = [rng.random() for _ in range(12)]
    b = [x + 0.3 * rng.random() for x in a]
    found, expected = agreement(a, b), stats.kendalltau(a, b)
    assert (found.tau, found.p, found.plans) == pytest.approx((expected.statistic, expected.pvalue, 12))
    assert agreement(a, [-x for x in a]).tau == pytest.approx(-1)


def test_plans_that_are_all_equal_have_no_order():
    assert agreement([1, 1, 1], [1, 2, 3]).tau == 0


@pytest.mark.parametrize(("a", "b"), [([1], [1]), ([1, 2], [1, 2, 3])])
def test_two_plans_are_the_least(a, b):
    with pytest.raises(ValueError, match="two plans"):
        agreement(a, b)


def test_the_warning_says_what_to_do():
    poor = agreement([1, 2, 3, 4], [2, 1, 4, 3])
    assert "Train the supernet longer" in poor.warning(0.5)
    assert poor.warning(0.3) is None


@pytest.mark.parametrize("direction", ["minimise", "maximise"])
def test_a_sample_covers_good_and_bad(direction):
    found = points([5, 1, None, 4, 2, 3, 9, 8])
    quality = Objective("quality", cost, direction)
    sample = [point.scores["quality"] for point in spread_sample(quality, found, 4)]
    assert sample == ([1, 3, 5, 9] if direction == "minimise" else [9, 5, 3, 1])
    assert len(spread_sample(quality, found, 50)) == 7
