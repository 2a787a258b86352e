"""A search that was stopped goes on."""

from __future__ import annotations

import pytest
from nas.toys import SAMPLERS, Recorded, error, goals, layers, stop_at, told

from search import Objective, evolve


@pytest.fixture
def log(tmp_path):
    return tmp_path / "asked"


@pytest.mark.parametrize(
    ("file", "sampler"), [("search.db", "nsga2"), *(("search.journal", sampler) for sampler in SAMPLERS)]
)
def test_a_resumed_search_is_an_uninterrupted_one(file, sampler, tmp_path, log):
    space, watched = layers(4), Recorded(log)
    objectives = [Objective("cost", watched), Objective("error", error)]
    settings = {"sampler": sampler, "population": 6, "seed": 3}
    whole = evolve(space, objectives, evaluations=20, **settings)
    log.unlink()
    first = evolve(space, objectives, evaluations=9, storage=tmp_path / file, **settings)
    second = evolve(space, objectives, evaluations=20, storage=tmp_path / file, **settings)
    assert told(second)[: len(first.points)] == told(first)
    assert told(second) == told(whole)
    assert second.repeats == whole.repeats
    assert len(watched.asked) == len(set(watched.asked)) == 20


def interrupt():
    raise KeyboardInterrupt


def test_an_interrupted_search_gives_what_it_has_and_goes_on(tmp_path, log):
    stopped = Recorded(log, stop_at(8, interrupt))
    settings = {"evaluations": 20, "storage": f"sqlite:///{tmp_path / 'search.db'}", "population": 6}
    first = evolve(layers(4), [Objective("cost", stopped), Objective("error", error)], **settings)
    assert first.interrupted
    assert len(first.points) == 7
    second = evolve(layers(4), [Objective("cost", Recorded(log)), Objective("error", error)], **settings)
    assert not second.interrupted
    assert told(second)[:7] == told(first)
    assert len({p.candidate for p in second.points}) == 20
    assert len(stopped.asked) == len(set(stopped.asked)) + 1  # the one that was not finished


def test_an_interrupted_search_in_memory_keeps_its_points(log):
    result = evolve(layers(4), [Objective("cost", Recorded(log, stop_at(8, interrupt)))], evaluations=20)
    assert result.interrupted
    assert len(result.points) == 7


def test_a_proposal_that_is_interrupted_leaves_nothing_behind(tmp_path, monkeypatch):
    storage = {"storage": tmp_path / "search.db", "evaluations": 10}
    with monkeypatch.context() as patch:
        patch.setattr("search.samplers.SeededSampler.sample_independent", lambda *args: interrupt())
        assert evolve(layers(4), goals(), **storage).interrupted
    assert len(evolve(layers(4), goals(), **storage).points) == 10
