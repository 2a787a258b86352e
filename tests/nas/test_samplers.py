"""Evolution covers more than chance does with as many evaluations."""

from __future__ import annotations

from nas.toys import goals, layers

from search import evolve

SEEDS = range(3)


def covered(sampler):
    """Hypervolume by seed and evaluation."""
    space = layers(10, 4)
    runs = (evolve(space, goals(), evaluations=200, sampler=sampler, population=12, seed=seed) for seed in SEEDS)
    return [run.hypervolume_history((8, 8)) for run in runs]


def test_nsga2_covers_more_than_chance():
    evolved, random = covered("nsga2"), covered("random")
    assert all(history == sorted(history) and len(history) == 200 for history in [*evolved, *random])
    assert sum(history[-1] for history in evolved) > sum(history[-1] for history in random)
