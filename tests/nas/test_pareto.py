"""Fronts and hypervolumes against their definitions."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nas.toys import layers

from search import Front, Objective, Point, hypervolume

GOALS = [Objective("cost", lambda plan: 0.0), Objective("score", lambda plan: 0.0, "maximise", "BLEU")]
SMALL = st.integers(0, 4)


def point(cost, score, excess=0.0, number=0):
    candidate = (0, 1)
    scores = {"cost": float(cost), "score": float(score)}
    return Point(candidate, layers(2).to_plan(candidate), scores, excess, number)


def pairs(front):
    return [(p.scores["cost"], p.scores["score"]) for p in front.points]


@given(st.lists(st.tuples(SMALL, SMALL), max_size=12))
@settings(max_examples=60, deadline=None)
def test_a_front_is_what_nothing_beats(values):
    front = Front.of(GOALS, [point(*v) for v in values])
    beaten = {v for v in values if any(w != v and w[0] <= v[0] and w[1] >= v[1] for w in values)}
    assert pairs(front) == sorted(v for v in values if v not in beaten)


def test_what_exceeds_a_budget_is_not_on_the_front():
    assert pairs(Front.of(GOALS, [point(1, 9, excess=0.1), point(2, 5)])) == [(2, 5)]


@given(st.lists(st.tuples(SMALL, SMALL, SMALL), max_size=8))
@settings(max_examples=60, deadline=None)
def test_the_hypervolume_is_the_number_of_dominated_cells(losses):
    cells = itertools.product(range(5), repeat=3)
    covered = sum(any(all(x <= c for x, c in zip(loss, cell, strict=True)) for loss in losses) for cell in cells)
    assert hypervolume(losses, (5, 5, 5)) == covered
    flat = [loss[:2] for loss in losses]
    covered = sum(any(x <= a and y <= b for x, y in flat) for a, b in itertools.product(range(5), repeat=2))
    assert hypervolume(flat, (5, 5)) == covered


def test_the_hypervolume_of_a_front_is_in_the_objectives_units():
    front = Front.of(GOALS, [point(1, 30), point(2, 35)])
    assert front.hypervolume((4, 20)) == 3 * 10 + 2 * 5


def test_the_hypervolume_is_exact_for_floats():
    rng = random.Random(0)
    losses = [(rng.random(), rng.random(), rng.random()) for _ in range(6)]
    volume = 0.0
    for size in range(1, 7):
        for group in itertools.combinations(losses, size):
            corner = [max(column) for column in zip(*group, strict=True)]
            volume -= (-1) ** size * (1 - corner[0]) * (1 - corner[1]) * (1 - corner[2])
    assert hypervolume(losses, (1, 1, 1)) == pytest.approx(volume, rel=1e-12)


def test_a_front_survives_json(tmp_path):
    front = Front.of(GOALS, [point(1, 3, number=4), point(2, 7)])
    path = tmp_path / "front.json"
    path.write_text(front.to_json())
    again = Front.from_json(path)
    assert again.points == front.points
    assert [o.to_dict() for o in again.objectives] == [o.to_dict() for o in GOALS]
    assert again.hypervolume((4, 0)) == front.hypervolume((4, 0))
    assert again.to_json() == front.to_json()
    with pytest.raises(ValueError, match="score was read from a file and cannot measure"):
        again.objectives[1].measure(front.points[0].plan)
    with pytest.raises(ValueError, match="not a front of format 1"):
        Front.from_json("{}")


def test_a_table_shows_scores_and_plans():
    text = Front.of(GOALS, [point(1, 3)]).table()
    assert "3 BLEU" in text
    assert "shift: 1 modules" in text
