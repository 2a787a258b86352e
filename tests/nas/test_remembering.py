"""Scores in a file: measured once, by whoever comes first."""

from __future__ import annotations

from nas.toys import Recorded, cost, layers

from search import Objective, evolve
from search.remembering import remembered


def test_a_second_search_measures_nothing_anew(tmp_path):
    record = Recorded(tmp_path / "asked")
    space, path = layers(3), tmp_path / "scores.jsonl"
    objective = Objective("cost", record)
    first = evolve(space, [remembered(objective, path)], evaluations=100, population=6)
    asked = len(record.asked)
    second = evolve(space, [remembered(objective, path)], evaluations=100, sampler="random")
    assert asked == space.count()
    assert len(record.asked) == asked
    assert {p.candidate: p.scores["cost"] for p in first.points} == {
        p.candidate: p.scores["cost"] for p in second.points
    }


def test_scores_of_another_process_are_seen(tmp_path):
    space, path, asked = layers(2), tmp_path / "scores.jsonl", []
    mine, other = (remembered(Objective("cost", lambda p: asked.append(p) or cost(p)), path) for _ in range(2))
    plan = space.to_plan((1, 1))
    mine.measure(space.to_plan((0, 1)))
    assert other.measure(plan) == mine.measure(plan)
    assert len(asked) == 2


def test_objectives_do_not_mix(tmp_path):
    path, plan = tmp_path / "scores.jsonl", layers(2).to_plan((1, 1))
    values = [remembered(Objective(name, lambda p, v=v: v), path).measure(plan) for name, v in (("a", 1), ("b", 2))]
    assert values == [1, 2]


def test_half_a_line_is_measured_again(tmp_path):
    path, plans = tmp_path / "scores.jsonl", [layers(2).to_plan((0, c)) for c in range(3)]
    objective = Objective("cost", cost)
    for plan in plans:
        remembered(objective, path).measure(plan)
    path.write_text(path.read_text()[:-40])
    again = Recorded(tmp_path / "asked")
    repaired = remembered(Objective("cost", again), path)
    assert [repaired.measure(plan) for plan in plans] == [cost(plan) for plan in plans]
    assert len(again.asked) == 1
    known = remembered(Objective("cost", lambda plan: 1 / 0), path)
    assert [known.measure(plan) for plan in plans] == [cost(plan) for plan in plans]


def test_a_score_that_cannot_be_kept_is_a_score(tmp_path):
    plan = layers(2).to_plan((0, 1))
    kept_nowhere = remembered(Objective("cost", cost), tmp_path / "no such folder" / "scores.jsonl")
    assert kept_nowhere.measure(plan) == cost(plan)
