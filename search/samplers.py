"""Who proposes the next candidate? Optuna's samplers, seeded anew for each trial.

A sampler's random state lives in its process. Were it seeded once, a resumed search would go another way than an
uninterrupted one, and two processes with one seed would propose the same candidates. Seeded by the trial's number, a
proposal depends on the study alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from shiftadd_transformers.specs import nearest

SAMPLERS: dict[str, Callable[[int, int], BaseSampler]] = {
    "nsga2": lambda seed, population: NSGAIISampler(population_size=population, seed=seed),
    "tpe": lambda seed, population: TPESampler(n_startup_trials=population, seed=seed),
    "random": lambda seed, population: RandomSampler(seed=seed),
}
"""By name: seed and population to sampler. "tpe" starts with a population of random trials."""


class SeededSampler(BaseSampler):
    """One of the samplers above, whose proposals depend on the seed, the trial's number and the study alone.

    Args:
        name: "nsga2", "tpe" or "random".
        seed: Of the search.
        population: Trials per generation.
        distributions: Of all parameters; the same in every trial of the study.

    Raises:
        ValueError: Unknown name.
    """

    def __init__(self, name: str, seed: int, population: int, distributions: Mapping[str, BaseDistribution]) -> None:
        if name not in SAMPLERS:
            raise ValueError(f"sampler {name!r} is unknown; {nearest(name, list(SAMPLERS))}")
        self._name, self._seed, self._population = name, seed, population
        # A single value cannot be crossed; Optuna wants it left to independent sampling.
        self._crossed = {key: values for key, values in distributions.items() if not values.single()}
        self._made: tuple[int, BaseSampler] | None = None

    @property
    def current(self) -> int | None:
        """Number of the last trial that began here."""
        return self._made[0] if self._made else None

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Passed on."""
        self._of(trial).before_trial(study, trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """What is proposed together: known here, where Optuna would compare all earlier trials to find out."""
        sampler = self._of(trial)
        return (
            self._crossed if isinstance(sampler, NSGAIISampler) else sampler.infer_relative_search_space(study, trial)
        )

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Passed on."""
        return self._of(trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Passed on."""
        return self._of(trial).sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Passed on."""
        self._of(trial).after_trial(study, trial, state, values)

    def _of(self, trial: FrozenTrial) -> BaseSampler:
        if self._made is None or self._made[0] != trial.number:
            seed = int(np.random.SeedSequence((self._seed, trial.number)).generate_state(1)[0])
            self._made = trial.number, SAMPLERS[self._name](seed, self._population)
        return self._made[1]
