"""What does a `[plan]` table do to the model?  The tasks' only contact with the shift-add verbs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.errors import TaskError
from tasks.training.config import DynamicsConfig, PlanConfig, StageConfig, TrainConfig


def convert(model: Any, stage: StageConfig, *, protect: bool = True) -> Any:
    """Swap dense layers for trainable (latent) shift-add layers, in place.

    Args:
        model: dense, or converted in part: rules see what is still dense.
        stage: whose rules or file say what becomes of it.
        protect: keep head layers dense.

    Returns:
        The resolved plan.

    Raises:
        TaskError: a rule or plan that the library refuses; its message proposes the nearest names.
    """
    from shiftadd_transformers import hf

    plan = read_plan(stage.file) if stage.file else resolve(model, stage.rules, protect=protect)
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


def read_plan(place: str) -> Any:
    """A plan from a file.

    Args:
        place: a plan's JSON; or a front of plans with the number of one, `front.json#3`.

    Raises:
        TaskError: no such file or number, or another kind of file.
    """
    from shiftadd_transformers import Plan

    path, separator, number = place.partition("#")
    if not Path(path).is_file():
        raise TaskError(f"there is no plan {path}; a search writes front.json, `shiftadd plan --output` a single one")
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        points = data.get("points")
        if points is None:
            return Plan.from_dict(data)
        if not separator or not number.isdigit() or int(number) >= len(points):
            raise TaskError(f"{path} holds {len(points)} plans; say which: {path}#0 to #{len(points) - 1}")
        return Plan.from_dict(points[int(number)]["plan"])
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise TaskError(f"{path} is neither a plan nor a front of plans ({error})") from error


def resolve_stages(model: Any, stages: Sequence[Sequence[Mapping[str, Any]]]) -> list[Any]:
    """The plan of each stage, without any training; all stages but the last are carried out on the model."""
    earlier = [convert(model, StageConfig(tuple(rules))) for rules in stages[:-1]]
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
