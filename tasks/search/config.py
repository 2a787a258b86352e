"""Which keys does `[search]` have?"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from tasks.errors import TaskError
from tasks.training.config import DynamicsConfig

Cost = Literal["energy", "multiplications", "operations", "stored bytes", "latency"]


@dataclass(frozen=True)
class SupernetConfig:
    """`[search.supernet]`: the network that all plans are compared in.

    Args:
        share: length of its training in parts of `[train]`.
        learning_rate: peak; none takes that of `[train]`.
        sharing: one stored tensor per linear layer ("heterogeneous"), or one per operator ("separate").
        sampling: "sandwich" trains the dense, the cheapest and some random plans in each step, "uniform" random ones.
        randoms: how many random plans.
        distill: share of the loss that is learning from the dense plan's answers.
        matching: weight of the loss that keeps shared weights normal, and the adders' map of them Laplacian.
    """

    share: float = 1.0
    learning_rate: float | None = None
    sharing: Literal["heterogeneous", "separate"] = "heterogeneous"
    sampling: Literal["sandwich", "uniform"] = "sandwich"
    randoms: int = 2
    distill: float = 0.5
    matching: float = 0.1

    def __post_init__(self) -> None:
        if self.share <= 0 or self.matching < 0 or not 0 <= self.distill <= 1:
            raise TaskError("search.supernet: share must be positive, distill between 0 and 1, matching not negative")
        if self.randoms < (0 if self.sampling == "sandwich" else 1):
            raise TaskError(f"search.supernet: {self.sampling} sampling needs randoms")


@dataclass(frozen=True)
class TrustConfig:
    """`[search.trust]`: retrain a sample of plans, to see whether the supernet ranks plans as training does.

    Args:
        plans: how many; 0 leaves it out.
        share: length of each training in parts of `[train]`.
        least: warn where Kendall's τ is below.
    """

    plans: int = 10
    share: float = 1.0
    least: float = 0.5

    def __post_init__(self) -> None:
        if self.plans < 0 or self.plans == 1 or self.share <= 0:
            raise TaskError("search.trust: plans must be 0 or at least 2, and share positive")


@dataclass(frozen=True)
class SearchConfig:
    """`[search]`: find plans for the model of this config. `[train]` is how the plans that are found are trained.

    Args:
        preset: a ready space: "translation" or "vit"; none where there are choices.
        sizes: also search the widths, heads and depths of the preset "translation".
        choices: ordered tables as in `[[plan.rules]]`, with `choices = [...]` in the place of `op`.
        limits: tables such as `{ at_most = 2, kind = "softmax" }`.
        quality: what plans are compared by: "loss" on the validation data, "bleu" or "accuracy".
        costs: what they are to save.
        budgets: cost to the most that is acceptable.
        latency_table: of `shiftadd profile search`, for the cost "latency".
        evaluations: plans to evaluate.
        sampler: "nsga2", "tpe" or "random".
        population: of the sampler.
        random_seeds: random searches beside it, to compare with.
        at: energies at which the best plan is trained: that of a uniform plan ("shift"), or a part of that of the
            dense model ("0.5").
        finalists: plans at each of these energies that are trained as long as those of `trust`; the one with the best
            validation loss is trained in full.
        seeds: full trainings of each such plan, of the uniform ones, and of the dense model.
        workers: trainings at the same time.
        storage: of the study; a file in the run folder by default, or a URL that several machines share.
        dynamics: as in `[plan.dynamics]`.
    """

    preset: Literal["translation", "vit"] | None = None
    sizes: bool = False
    choices: tuple[dict[str, Any], ...] = ()
    limits: tuple[dict[str, Any], ...] = ()
    quality: Literal["loss", "bleu", "accuracy"] = "loss"
    costs: tuple[Cost, ...] = ("energy",)
    budgets: dict[str, float] = field(default_factory=dict)
    latency_table: str | None = None
    evaluations: int = 150
    sampler: Literal["nsga2", "tpe", "random"] = "nsga2"
    population: int = 24
    random_seeds: int = 3
    at: tuple[str, ...] = ("shift", "0.5")
    finalists: int = 2
    seeds: int = 1
    workers: int = 2
    storage: str | None = None
    supernet: SupernetConfig = field(default_factory=SupernetConfig)
    trust: TrustConfig = field(default_factory=TrustConfig)
    dynamics: DynamicsConfig = field(default_factory=DynamicsConfig)

    def __post_init__(self) -> None:
        if bool(self.preset) == bool(self.choices):
            raise TaskError('[search] needs a preset or [[search.choices]], one of them: preset = "translation"')
        if self.sizes and self.preset != "translation":
            raise TaskError('search.sizes is for preset = "translation"; elsewhere write { widths = [64, 128] } etc.')
        if not self.costs or min(self.evaluations, self.finalists, self.seeds, self.workers) < 1:
            raise TaskError("search: costs, evaluations, finalists, seeds and workers must not be empty or 0")
        for level in self.at:
            if level.replace(".", "", 1).isdigit() and float(level) <= 0:
                raise TaskError(f'search.at: {level!r} is no part of the dense energy; write "0.5", or "shift"')
        if strange := sorted(set(self.budgets) - set(self.costs)):
            raise TaskError(f"search.budgets names {strange[0]!r}, which is none of the costs {', '.join(self.costs)}")
        if ("latency" in self.costs) != (self.latency_table is not None):
            raise TaskError("search: the cost latency and latency_table belong together")
