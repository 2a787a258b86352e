"""The search: finds what there is, evaluates each candidate once, and loses nothing."""

from __future__ import annotations

import pytest
from nas.toys import SAMPLERS, Recorded, cost, entangled, error, goals, layers, told

from search import Objective, evolve


def true_front(space):
    """By definition, from all candidates."""
    scores = {c: (cost(space.to_plan(c)), error(space.to_plan(c))) for c in space.every()}
    return {c for c, s in scores.items() if not any(t != s and t[0] <= s[0] and t[1] <= s[1] for t in scores.values())}


@pytest.fixture
def log(tmp_path):
    return tmp_path / "asked"


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_small_space_is_searched_to_its_end(sampler):
    space = layers(3)
    result = evolve(space, goals(), evaluations=1000, sampler=sampler, population=6)
    assert len(result.points) == space.count() == 27
    assert {p.candidate for p in result.front.points} == true_front(space)
    assert result.summary().startswith(f"{len(true_front(space))} plans on the front; 27 plans evaluated")


def test_the_front_is_found_before_the_end():
    space = layers(4)
    result = evolve(space, goals(), evaluations=60, population=10)
    found = {p.candidate for p in result.front.points}
    assert len(found & true_front(space)) >= 0.7 * len(true_front(space))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_same_seed_is_the_same_search(sampler):
    runs = [evolve(layers(4), goals(), evaluations=16, sampler=sampler, population=8, seed=s) for s in (1, 1, 2)]
    assert told(runs[0]) == told(runs[1])
    assert told(runs[0]) != told(runs[2])


def test_uniform_plans_come_first_and_others_can(log):
    space = layers(4)
    result = evolve(space, goals(), evaluations=4)
    assert [p.candidate for p in result.points[:3]] == [(0,) * 4, (1,) * 4, (2,) * 4]
    result = evolve(space, goals(), evaluations=2, starts=[(0, 1, 2, 0), (0, 1, 2, 0)])
    assert result.points[0].candidate == (0, 1, 2, 0)


def test_a_failing_evaluation_is_recorded_and_the_search_goes_on(log):
    def fail(asked):
        if asked % 3 == 0:
            raise RuntimeError("no memory left")

    watched = Recorded(log, fail)
    result = evolve(layers(4), [Objective("cost", watched), Objective("error", error)], evaluations=30, population=6)
    assert len(result.points) == 20
    assert len(result.failures) == 10
    assert set(result.failures.values()) == {"RuntimeError: no memory left"}
    assert len(watched.asked) == len(set(watched.asked)) == 30


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_a_number_is_a_failure(value):
    result = evolve(layers(2), [Objective("cost", lambda plan: value)], evaluations=4)
    assert set(result.failures.values()) == {f"ValueError: cost is {value}"}
    assert result.closest is None
    assert "no plan could be evaluated" in result.summary()
    assert f"ValueError: cost is {value}" in result.summary()
    assert result.hypervolume_history() == []


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_front_is_within_the_budget(sampler):
    space = layers(4)
    result = evolve(space, goals(cost=1.5), evaluations=30, sampler=sampler, population=8)
    assert result.front.points
    assert all(p.scores["cost"] <= 1.5 for p in result.front.points)
    outside = [p for p in result.points if p.scores["cost"] > 1.5]
    assert outside
    assert not any(p.feasible for p in outside)
    assert all(p.scores["error"] is None for p in outside)  # not worth measuring
    history = result.hypervolume_history()
    assert history == sorted(history)
    assert len(history) == 30


def test_a_budget_that_nothing_meets_is_answered_with_the_closest_plan():
    space = layers(3)
    result = evolve(space, goals(cost=0.1), evaluations=space.count(), population=8)
    assert not result.front.points
    cheapest = min(space.every(), key=lambda c: cost(space.to_plan(c)))
    assert result.closest.candidate == cheapest
    value = cost(space.to_plan(cheapest))
    assert result.summary() == (
        f"no plan is within the budgets; 27 plans evaluated, {result.repeats} proposals repeated, 0 failed. "
        f"The closest has cost {value:.4g} (budget 0.1, {value / 0.1 - 1:.1%} beyond): "
        f"{space.to_plan(cheapest).summary()}. Raise the budget, offer cheaper operators, or search longer"
    )


def test_more_can_be_better():
    space = layers(3)
    objectives = [
        Objective("dense", lambda plan: 3 - len(plan.converted), "maximise", budget=2),
        Objective("cost", cost),
    ]
    result = evolve(space, objectives, evaluations=27)
    assert {p.scores["dense"] for p in result.front.points} == {2.0, 3.0}


def test_limits_hold_for_all_that_is_evaluated():
    space = entangled()
    kinds = Objective("converted", lambda plan: len(plan.converted))
    result = evolve(space, [kinds], evaluations=20, population=6)
    assert len({p.candidate for p in result.points}) == 20
    assert not any(space.violations(p.candidate) for p in result.points)


def test_points_are_told_as_they_come():
    seen = []
    result = evolve(layers(3), goals(), evaluations=9, after=seen.append)
    assert tuple(seen) == result.points


def test_a_study_about_something_else_is_not_continued(tmp_path):
    storage = {"evaluations": 5, "storage": tmp_path / "search.db"}
    evolve(layers(3), goals(), **storage)
    with pytest.raises(ValueError, match="study 'search' was about another space"):
        evolve(layers(4), goals(), **storage)
    with pytest.raises(ValueError, match=r"about other objectives or budgets: cost \(minimise, budget None\)"):
        evolve(layers(3), goals(cost=1.0), **storage)
    assert len(evolve(layers(4), goals(), name="another", **storage).points) == 5


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"evaluations": 0}, "at least 1"),
        ({"sampler": "nsga"}, "nearest: 'nsga2'"),
        ({"storage": "search.db"}, r"neither 'memory' nor a URL; for a file, pass a pathlib.Path"),
        ({"objectives": []}, "needs objectives"),
        ({"objectives": [*goals(), *goals()]}, "different names"),
    ],
)
def test_settings_without_meaning_are_refused(changed, message):
    settings = {"objectives": goals(), "evaluations": 5, **changed}
    with pytest.raises(ValueError, match=message):
        evolve(layers(2), **settings)
