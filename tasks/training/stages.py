"""How does a plan become a trained model: convert, train, and again for every stage?

Two-stage reparametrisation (attention first, then the linear layers) is one plan with two stages. Without a plan the
model is trained as it is.

References:
    You et al., ShiftAddViT, NeurIPS 2023, section 4.2. Differs: any number of stages, each with any rules.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from shiftadd_transformers.hf import save
from tasks.config import write_text
from tasks.errors import Interrupted
from tasks.training import conversion
from tasks.training.checkpoints import checkpoints
from tasks.training.config import PlanConfig, StageConfig, TaskConfig, TrainConfig
from tasks.training.fitting import Fit, Material, fit, read_history
from tasks.training.folder import is_finished


def train_model(
    model: Any,
    material: Material,
    config: TaskConfig,
    folder: Path,
    load: Callable[[str], Any],
    *,
    pretrained: bool,
    resume: bool = False,
    quiet: bool = False,
) -> Fit:
    """Train a model as `[train]` and `[plan]` say, and save it in its run folder.

    Args:
        model: dense; changed in place.
        material: data, batches, loss.
        config: the task's whole config.
        folder: the run folder.
        load: reads a model from a folder, for a named teacher and for a stage that was finished earlier.
        pretrained: the model can already do the task, so that it may teach.
        resume: go on in the stage, and from the checkpoint, where an earlier training stopped.
        quiet: no progress bar.

    Returns:
        How it went; over all stages where there are several.

    Raises:
        TaskError: a rule or a teacher that does not fit.
        Interrupted: Ctrl-C; a resumable checkpoint has been written.
    """
    session = _Session(material, config, folder, load, resume, quiet)
    if config.plan is None:
        result = fit(
            model, material, config.train, folder / "checkpoints", seed=config.seed, resume=resume, quiet=quiet
        )
        _stop_if(result, folder)
    else:
        result = _train_plan(session, model, config.plan, pretrained)
    save(result.model, folder / "model", material.companion)
    if config.plan is not None and config.plan.pack:
        conversion.save_packed(copy.deepcopy(result.model), material.companion, folder / "packed")
    return result


def part_of(train: TrainConfig, share: float, learning_rate: float | None = None) -> TrainConfig:
    """`[train]` with a share of the steps, epochs and minutes, and with another learning rate if one is given.

    Examples:
        >>> budget = part_of(TrainConfig(epochs=8, max_steps=100), 0.25, 1e-4)
        >>> budget.epochs, budget.max_steps, budget.learning_rate
        (2.0, 25, 0.0001)
    """
    return replace(
        train,
        epochs=train.epochs * share,
        max_steps=None if train.max_steps is None else max(1, round(train.max_steps * share)),
        max_minutes=None if train.max_minutes is None else train.max_minutes * share,
        learning_rate=learning_rate or train.learning_rate,
    )


@dataclass(frozen=True)
class _Session:
    """What stays the same from stage to stage."""

    material: Material
    config: TaskConfig
    folder: Path
    load: Callable[[str], Any]
    resume: bool
    quiet: bool


def _train_plan(session: _Session, model: Any, plan: PlanConfig, pretrained: bool) -> Fit:
    """All stages; those that an earlier session finished are read from their folders."""
    teaches = pretrained and plan.distill is not None and plan.distill.teacher is None
    teacher = conversion.find_teacher(copy.deepcopy(model) if teaches else None, plan, session.load)
    results: list[Fit] = []
    for number, stage in enumerate(plan.in_stages, 1):
        place = session.folder / "stages" / str(number) if plan.stages else session.folder
        if plan.stages and session.resume and is_finished(place):
            model = session.load(str(place / "model"))
            results.append(_earlier(model, place))
            continue
        label = f"stage {number} of {len(plan.stages)}" if plan.stages else "training"
        results.append(_train_stage(session, model, plan, stage, place, teacher, label))
        if plan.stages:
            save(model, place / "model", session.material.companion)
            _join_histories(session.folder, number)
    return replace(results[-1], steps=sum(r.steps for r in results), minutes=sum(r.minutes for r in results))


def _train_stage(
    session: _Session, model: Any, plan: PlanConfig, stage: StageConfig, place: Path, teacher: Any, label: str
) -> Fit:
    """Convert what the stage's rules select, and train."""
    conversion.convert(model, stage, protect=plan.protect)
    budget = part_of(session.config.train, stage.share, stage.learning_rate)
    loss = conversion.distillation(model, teacher, plan)
    result = fit(
        model,
        session.material,
        budget,
        place / "checkpoints",
        seed=session.config.seed,
        resume=session.resume and bool(checkpoints(place / "checkpoints")),
        loss=loss,
        optimizer=conversion.latent_optimizer(model, budget, plan.dynamics),
        callbacks=conversion.callbacks(plan.dynamics),
        label=label,
        quiet=session.quiet,
    )
    if loss is not None:
        loss.detach()
    _stop_if(result, place)
    return result


def _stop_if(result: Fit, place: Path) -> None:
    if result.interrupted:
        raise Interrupted(f"stopped at step {result.steps}; a checkpoint is in {place / 'checkpoints'}")


def _earlier(model: Any, place: Path) -> Fit:
    """The result of a stage that an earlier session finished."""
    end = read_history(place / "history.json")[-1]
    return Fit(model, end["validation_loss"], end["steps"], end["minutes"], False, end["weights"])


def _join_histories(folder: Path, stages: int) -> None:
    """One history of all stages so far: steps go on, every row says its stage, and the last row sums up."""
    rows: list[dict[str, Any]] = []
    start, minutes = 0, 0.0
    for number in range(1, stages + 1):
        *log, end = read_history(folder / "stages" / str(number) / "history.json")
        rows += [{**row, "step": start + row["step"], "stage": number} for row in log if "step" in row]
        start, minutes = start + end["steps"], minutes + end["minutes"]
    write_text(
        folder / "history.json", json.dumps([*rows, {**end, "steps": start, "minutes": minutes}], indent=1) + "\n"
    )
