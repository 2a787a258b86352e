"""What does a `[plan]` table do to the model?  The tasks' only contact with the shift-add verbs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.errors import TaskError
from tasks.training.config import DynamicsConfig, PlanConfig, TrainConfig


def convert(model: Any, rules: Sequence[Mapping[str, Any]], *, protect: bool = True) -> Any:
    """Swap dense layers for trainable (latent) shift-add layers, in place.

    Args:
        model: dense, or converted in part: rules see what is still dense.
        rules: tables of `[plan]` or of one stage.
        protect: keep head layers dense.

    Returns:
        The resolved plan.

    Raises:
        TaskError: a rule that the library refuses; its message proposes the nearest names.
    """
    from shiftadd_transformers import hf

    plan = resolve(model, rules, protect=protect)
    try:
        hf.convert_(model, plan)
    except (ValueError, TypeError) as error:
        raise TaskError(f"[plan]: {error}") from error
    return plan


def resolve(model: Any, rules: Sequence[Mapping[str, Any]], *, protect: bool = True) -> Any:
    """The plan that rules make of a model, which stays as it is.

    Raises:
        TaskError: a rule that the library refuses.
    """
    from shiftadd_transformers import make_plan

    try:
        return make_plan(model, [dict(table) for table in rules], protect=protect)
    except (ValueError, TypeError) as error:
        raise TaskError(f"[plan]: {error}") from error


def resolve_stages(model: Any, stages: Sequence[Sequence[Mapping[str, Any]]]) -> list[Any]:
    """The plan of each stage, without any training; all stages but the last are carried out on the model."""
    earlier = [convert(model, rules) for rules in stages[:-1]]
    return [*earlier, resolve(model, stages[-1])]


def latent_optimizer(model: Any, train: TrainConfig, dynamics: DynamicsConfig) -> Any:
    """The library's optimizer: parameter groups per operator, and the adder's adaptive rescale."""
    from shiftadd_transformers.finetune import make_optimizer

    return make_optimizer(
        model,
        lr=train.learning_rate,
        weight_decay=train.weight_decay,
        adder_lr=dynamics.adder_learning_rate,
        adder_warmup=dynamics.adder_warmup,
        reference_lr_factor=dynamics.reference_lr_factor,
    )


def callbacks(dynamics: DynamicsConfig) -> list[Any]:
    """What watches and steers operators while they train.

    Raises:
        TaskError: there are no weights of that kind to freeze, or not at that point.
    """
    from shiftadd_transformers.hf.callbacks import DeadFeatures, ExpertShares, FreezeOperators

    try:
        freeze = [FreezeOperators(dynamics.freeze)] if dynamics.freeze else []
    except ValueError as error:
        raise TaskError(f"plan.dynamics.freeze: {error}") from error
    return [ExpertShares(), DeadFeatures(dynamics.dead_features), *freeze]


def find_teacher(start: Any, config: PlanConfig, load: Callable[[str], Any]) -> Any:
    """The dense model to learn from, or None where the config asks for none.

    Args:
        start: a copy of the trained model from before the conversion; None where training starts from nothing.
        config: the `[plan]` table.
        load: reads the model that `plan.distill.teacher` names.

    Raises:
        TaskError: there is nothing to learn from.
    """
    if config.distill is None:
        return None
    teacher = start if config.distill.teacher is None else load(config.distill.teacher)
    if teacher is None:
        raise TaskError("plan.distill needs a teacher: set plan.distill.teacher or start from model.pretrained")
    return teacher


def distillation(student: Any, teacher: Any, config: PlanConfig) -> Any:
    """A loss that also learns from the teacher; None without one."""
    if teacher is None or config.distill is None:
        return None
    from shiftadd_transformers.finetune import Distillation

    try:
        loss = Distillation(teacher, alpha=config.distill.alpha, temperature=config.distill.temperature)
        return loss.attach(student)
    except ValueError as error:
        raise TaskError(f"plan.distill: {error}") from error


def save_packed(model: Any, companion: Any, folder: str | Path) -> Any:
    """Pack a latent model in place (integer codes and scales) and save it with its tokenizer or image processor."""
    from shiftadd_transformers import hf

    hf.save(hf.pack_(model), folder, companion)
    return model
