"""Starts from single changes: exact where layers do not interact."""

from __future__ import annotations

import pytest
from nas.toys import cost, entangled, error, layers

from search import Objective, evolve
from search.sensitivity import Sensitivity


def measured(space, loss=error, price=cost):
    return Sensitivity.measured(space, loss, price, space.uniform("dense"))


def test_predictions_are_exact_where_nothing_interacts():
    space = layers(5, 4)
    sensitivity = measured(space)
    for candidate in list(space.every())[::37]:
        plan = space.to_plan(candidate)
        assert sensitivity.predicted(candidate) == pytest.approx((error(plan), cost(plan)))


def test_it_measures_each_choice_once():
    asked = []
    measured(layers(4, 3), loss=lambda plan: asked.append(plan.to_json()) or error(plan))
    assert len(asked) == 1 + 4 * 2
    assert len(set(asked)) == len(asked)


def test_starts_lie_on_the_true_front():
    space = layers(6, 4)
    starts = measured(space).starts(50)
    scores = {c: (cost(space.to_plan(c)), error(space.to_plan(c))) for c in space.every()}
    for start in starts:
        mine = scores[start]
        assert not any(t != mine and t[0] <= mine[0] and t[1] <= mine[1] for t in scores.values())
    assert space.uniform("dense") in starts
    assert space.uniform("bcq") in starts
    costs = [scores[start][0] for start in starts]
    assert costs == sorted(costs, reverse=True)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_fewer_starts_keep_the_ends(count):
    sensitivity = measured(layers(6, 4))
    every, few = sensitivity.starts(1000), sensitivity.starts(count)
    assert len(few) == count
    assert few[0] == every[0]
    assert count == 1 or few[-1] == every[-1]


def test_limits_and_silent_decisions_are_kept():
    space = entangled()
    counted = Sensitivity.measured(
        space,
        lambda plan: sum(e.spec.kind == "mixer" for e in plan.entries.values()),
        lambda plan: -sum(e.spec.kind in ("mixer", "shift") for e in plan.entries.values()),
        space.uniform("dense"),
    )
    for start in counted.starts(10):
        assert space.canonical(start) == start
        assert not space.violations(start)


def test_a_search_that_starts_there_covers_more():
    space = layers(8, 4)
    goals = [Objective("cost", cost), Objective("error", error)]
    corner = [10.0, 10.0]
    warm = evolve(space, goals, evaluations=60, population=12, starts=measured(space).starts(16))
    cold = evolve(space, goals, evaluations=60, sampler="random")
    assert warm.hypervolume_history(corner)[-1] > cold.hypervolume_history(corner)[-1]
