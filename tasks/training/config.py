"""Which keys do `[train]` and `[plan]` have in every task?  A task adds its own by deriving from these."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from tasks.errors import TaskError


@dataclass(frozen=True)
class TrainConfig:
    """`[train]`: how long, how fast, how often.

    Args:
        learning_rate, schedule, warmup_steps: peak, and the curve down from it (`constant` stays).
        epochs, max_steps: the end; `max_steps` wins over `epochs`.
        max_minutes: ends training by the clock instead (`max_steps` is then a cap, `epochs` unused). The
            number of steps is estimated from the measured speed, so that the schedule still reaches its end.
        label_smoothing: probability mass spread over all classes; no part of a loss with a teacher.
        eval_steps: validate and save a checkpoint so often.
        keep_checkpoints: how many to keep on disk.
        average_checkpoints: average the weights of the last so many; kept if better on validation than the
            best.
        threads: CPU threads; none leaves PyTorch's choice, which is slower than 1 where other programs
            keep the cores busy.
    """

    learning_rate: float = 1.2e-3
    schedule: Literal["cosine", "inverse_sqrt", "linear", "constant"] = "cosine"
    warmup_steps: int = 100
    epochs: float = 10.0
    max_steps: int | None = None
    max_minutes: float | None = None
    gradient_accumulation: int = 1
    label_smoothing: float = 0.1
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    eval_steps: int = 300
    logging_steps: int = 50
    keep_checkpoints: int = 3
    average_checkpoints: int = 0
    bf16: bool = False
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.learning_rate <= 0 or self.eval_steps < 1 or self.gradient_accumulation < 1:
            raise TaskError("train: learning_rate, eval_steps and gradient_accumulation must be positive")
        if self.max_minutes is not None and self.max_minutes <= 0:
            raise TaskError("train.max_minutes must be positive")


@dataclass(frozen=True)
class DistillConfig:
    """`plan.distill`: a dense teacher for the fine-tuning; without `teacher` it is the starting model."""

    teacher: str | None = None
    alpha: float = 0.5
    temperature: float = 2.0


@dataclass(frozen=True)
class StageConfig:
    """One of `[[plan.stages]]`: rules for what is still dense, and their part of the training.

    Args:
        rules: as in `[plan]`; they see only the layers that earlier stages left dense.
        share: part of the steps, epochs or minutes; all stages together make 1.
        learning_rate: peak of this stage; none takes that of `[train]`.
        file: a plan in the place of rules, as in `[plan]`.
    """

    rules: tuple[dict[str, Any], ...] = ()
    share: float = 1.0
    learning_rate: float | None = None
    file: str | None = None

    def __post_init__(self) -> None:
        if bool(self.rules) == bool(self.file) or not 0 < self.share <= 1:
            raise TaskError("each of [[plan.stages]] needs rules or a file, and a share above 0 and at most 1")
        if self.learning_rate is not None and self.learning_rate <= 0:
            raise TaskError("plan.stages: learning_rate must be positive")


@dataclass(frozen=True)
class DynamicsConfig:
    """`plan.dynamics`: what operators need so that training does not diverge; `docs/finetune.md` has the recipes.

    Args:
        adder_learning_rate: of adder weights; none takes that of `[train]`.
        adder_warmup: steps over which it rises.
        reference_lr_factor: of DenseShift references; 1 where training starts from random weights.
        freeze: kind of layer to the fraction of the training after which its weights stay: `{shift = 0.8}`.
        dead_features: warn where a larger share of a layer's features never varies.
    """

    adder_learning_rate: float | None = None
    adder_warmup: int = 0
    reference_lr_factor: float = 0.01
    freeze: dict[str, float] = field(default_factory=dict)
    dead_features: float = 0.8

    def __post_init__(self) -> None:
        if self.adder_learning_rate is not None and self.adder_learning_rate <= 0:
            raise TaskError("plan.dynamics.adder_learning_rate must be positive")
        if self.adder_warmup < 0 or self.reference_lr_factor <= 0 or not 0 <= self.dead_features <= 1:
            raise TaskError(
                "plan.dynamics: adder_warmup must not be negative, reference_lr_factor must be positive, and "
                "dead_features lie between 0 and 1"
            )


@dataclass(frozen=True)
class PlanConfig:
    """`[plan]`: turn linear layers into shift-add operators and train on.

    Args:
        rules: ordered tables, first match wins: `{role = "mlp.*", op = {kind = "shift", bits = 4}}`.
        stages: in the place of rules: convert and train several times, each stage on the result of the one before.
        file: in the place of rules: a plan that `shiftadd plan` wrote, or one of a search, `front.json#3`.
        distill: learn from a dense teacher: the model from before the first stage, unless it names another.
        dynamics: learning rates, warm-up and freezing of single operators.
        pack: also write the packed model.
        protect: keep tied and head layers dense.
    """

    rules: tuple[dict[str, Any], ...] = ()
    stages: tuple[StageConfig, ...] = ()
    file: str | None = None
    distill: DistillConfig | None = None
    dynamics: DynamicsConfig = field(default_factory=DynamicsConfig)
    pack: bool = True
    protect: bool = True

    def __post_init__(self) -> None:
        given = [name for name in ("rules", "stages", "file") if getattr(self, name)]
        if len(given) > 1:
            raise TaskError(f"[plan] has both {' and '.join(given)}; put the first into one of [[plan.stages]]")
        if not given:
            raise TaskError("[plan] has no rules; add at least one [[plan.rules]] table, or leave [plan] out")
        shares = sum(stage.share for stage in self.stages)
        if self.stages and not math.isclose(shares, 1.0, abs_tol=1e-3):
            raise TaskError(f"the shares of [[plan.stages]] make {shares:g}; together they must make 1")

    @property
    def in_stages(self) -> tuple[StageConfig, ...]:
        """The stages; rules alone, or a file, are one."""
        return self.stages or (StageConfig(self.rules, file=self.file),)


class TaskConfig(Protocol):
    """What the shared floor reads of a task's whole config."""

    @property
    def run_dir(self) -> str:
        """Where everything about the run is written."""

    @property
    def seed(self) -> int:
        """Of weights, order and noise."""

    @property
    def train(self) -> TrainConfig:
        """`[train]`."""

    @property
    def plan(self) -> PlanConfig | None:
        """`[plan]`."""
