"""What does a `[plan]` table do to the model?  The task's only contact with the shift-add library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks.errors import TaskError
from tasks.translation.config import PlanConfig
from tasks.translation.model import load_model


def convert(model: Any, config: PlanConfig) -> Any:
    """Swap linear layers for trainable (latent) shift-add layers, in place.

    Args:
        model: a dense seq2seq model.
        config: the `[plan]` table.

    Returns:
        The resolved plan.

    Raises:
        TaskError: a rule that the library refuses; its message proposes the nearest names.
    """
    from shiftadd_transformers import hf, make_plan

    try:
        plan = make_plan(model, [dict(table) for table in config.rules], protect=config.protect)
        hf.convert_(model, plan)
    except (ValueError, TypeError) as error:
        raise TaskError(f"[plan]: {error}") from error
    return plan


def latent_optimizer(model: Any, learning_rate: float, weight_decay: float) -> Any:
    """The library's optimizer: parameter groups per operator, and the adder's adaptive rescale."""
    from shiftadd_transformers.finetune import make_optimizer

    return make_optimizer(model, lr=learning_rate, weight_decay=weight_decay)


def distillation(student: Any, start: Any, config: PlanConfig) -> Any:
    """A loss that also learns from a dense teacher, or None where the config names none.

    Args:
        student: the latent model.
        start: the dense model from before the conversion; the teacher unless `plan.distill.teacher` names
            another.
        config: the `[plan]` table.
    """
    if config.distill is None:
        return None
    from shiftadd_transformers.finetune import Distillation

    teacher = start if config.distill.teacher is None else load_model(config.distill.teacher)[0]
    if teacher is None:
        raise TaskError("plan.distill needs a teacher: set plan.distill.teacher or start from model.pretrained")
    try:
        loss = Distillation(teacher, alpha=config.distill.alpha, temperature=config.distill.temperature)
        return loss.attach(student)
    except ValueError as error:
        raise TaskError(f"plan.distill: {error}") from error


def save_packed(model: Any, tokenizer: Any, folder: str | Path) -> Any:
    """Pack a latent model in place (integer codes and scales) and save it."""
    from shiftadd_transformers import hf

    hf.save(hf.pack_(model), folder, tokenizer)
    return model
