"""How is any task's model trained, once?  The stock `Trainer` with a clock, a stop signal and the best weights."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from shiftadd_transformers.hf.model import own_names
from tasks.config import write_text
from tasks.errors import TaskError
from tasks.training.checkpoints import average_checkpoints, checkpoints
from tasks.training.config import TrainConfig
from tasks.training.schedule import UNKNOWN_END, Pace, Progress, Schedule, StopOnSignal

Loss = Callable[..., torch.Tensor]


@dataclass
class Material:
    """What a task hands to the trainer.

    Args:
        train: items of the training set.
        validation: items that choose the best weights.
        collate: makes a batch with `labels` of a list of items.
        companion: the tokenizer or image processor that is saved beside the model.
        loss: of (outputs, labels, num_items_in_batch), without a teacher.
        batch_size: items in a batch; 1 where an item is a batch.
        callbacks: the task's own.
    """

    train: Any
    validation: Any
    collate: Callable[[Sequence[Any]], Mapping[str, torch.Tensor]]
    companion: Any
    loss: Loss
    batch_size: int = 1
    callbacks: tuple[TrainerCallback, ...] = ()


@dataclass
class Fit:
    """What one training gave: the model with its best weights, and how it went."""

    model: Any
    validation_loss: float
    steps: int
    minutes: float
    interrupted: bool
    weights: str  # "best checkpoint" or "average of ..."


def fit(
    model: Any,
    material: Material,
    config: TrainConfig,
    folder: str | Path,
    *,
    seed: int = 42,
    resume: bool = False,
    loss: Loss | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    trainer_class: Callable[..., Trainer] = Trainer,
    label: str = "training",
    quiet: bool = False,
) -> Fit:
    """Train; the model ends with the weights of lowest validation loss.

    Args:
        model: dense or latent; trained in place.
        material: data, batches, loss.
        config: the `[train]` table.
        folder: for the checkpoints; `history.json` is written beside it.
        seed: of the order of batches.
        resume: go on from the last checkpoint in `folder`.
        loss: in the place of the material's own.
        optimizer: AdamW without decay on biases and norms by default.
        callbacks: besides the material's own.
        trainer_class: takes the arguments of the stock trainer by name.
        label: shown beside the progress bar.
        quiet: no progress bar.

    Returns:
        How it went; `interrupted` after Ctrl-C.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    _expect_tied_weights(model)
    steps = total_steps(config, -(-len(material.train) // material.batch_size))
    schedule = Schedule(config.schedule, config.warmup_steps, steps)
    optimizer = optimizer or dense_optimizer(model, config)
    stop, pace = StopOnSignal(), Pace(schedule, config.max_minutes, config.max_steps)
    trainer = trainer_class(
        model=model,
        args=training_arguments(config, folder, seed, steps, material.batch_size),
        data_collator=material.collate,
        train_dataset=material.train,
        eval_dataset=material.validation,
        processing_class=material.companion,
        compute_loss_func=loss or material.loss,
        optimizers=(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)),
        callbacks=[pace, *material.callbacks, *callbacks, stop, *([] if quiet else [Progress(label)])],
    )
    trainer.remove_callback(PrinterCallback)
    with stop, own_names(model):
        trainer.train(resume_from_checkpoint=str(checkpoints(folder)[-1]) if resume else None)
    result = _finish(trainer, config, Path(folder), schedule, interrupted=stop.asked)
    _write_history(trainer.state.log_history, result, Path(folder).parent / "history.json")
    return result


def total_steps(config: TrainConfig, batches: int) -> int:
    """Optimizer steps until the end; unknown yet where a time limit decides."""
    if config.max_minutes is not None:
        return config.max_steps or UNKNOWN_END
    return config.max_steps or max(1, round(config.epochs * batches / config.gradient_accumulation))


def training_arguments(
    config: TrainConfig, folder: str | Path, seed: int, steps: int, batch_size: int
) -> TrainingArguments:
    """The stock arguments."""
    distributed = int(os.environ.get("WORLD_SIZE", "1")) > 1  # without torchrun, naming a backend is an error
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=batch_size,
        gradient_accumulation_steps=config.gradient_accumulation,
        learning_rate=config.learning_rate,
        max_grad_norm=config.max_grad_norm,
        bf16=config.bf16,
        eval_strategy="steps",
        save_strategy="steps",
        eval_steps=config.eval_steps,
        save_steps=config.eval_steps,
        save_total_limit=max(1, config.keep_checkpoints, config.average_checkpoints),
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        prediction_loss_only=True,
        label_names=["labels"],  # DeiT's forward takes none, and the trainer would then compute no validation loss
        logging_steps=config.logging_steps,
        dataloader_pin_memory=torch.cuda.is_available(),
        use_cpu=not torch.cuda.is_available(),
        ddp_backend="gloo" if distributed and not torch.cuda.is_available() else None,
        remove_unused_columns=False,
        disable_tqdm=True,
        report_to="none",
        seed=seed,
    )


def dense_optimizer(model: Any, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW with the transformer's usual second moment; matrices decay, biases and norms do not."""
    matrices = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    others = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98), eps=1e-9, fused=True)


def read_history(path: str | Path) -> list[dict[str, Any]]:
    """The log of a training: losses by step, and how it ended in the last row."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def _expect_tied_weights(model: Any) -> None:
    """Tell the trainer that shared matrices are stored once, or it warns of missing keys at every reload."""
    known = model._keys_to_ignore_on_save or ()
    model._keys_to_ignore_on_save = {*known, *getattr(model, "all_tied_weights_keys", ())}


def _finish(trainer: Any, config: TrainConfig, folder: Path, schedule: Schedule, *, interrupted: bool) -> Fit:
    """Choose between the best checkpoint (already loaded) and the average of the last ones."""
    best = trainer.state.best_metric if trainer.state.best_metric is not None else float("nan")
    result = Fit(trainer.model, best, trainer.state.global_step, schedule.elapsed / 60, interrupted, "best checkpoint")
    last = checkpoints(folder)[-config.average_checkpoints :] if config.average_checkpoints > 1 else []
    if interrupted or len(last) < 2:
        return result
    kept = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    missing = set(trainer.model.load_state_dict(average_checkpoints(last), strict=False).missing_keys)
    if unexplained := missing - set(trainer.model._keys_to_ignore_on_save):
        raise TaskError(f"the checkpoints lack {', '.join(sorted(unexplained))}")
    loss = trainer.evaluate()["eval_loss"]
    if loss < best:
        result.validation_loss, result.weights = loss, f"average of {', '.join(path.name for path in last)}"
    else:
        trainer.model.load_state_dict(kept)
    return result


def _write_history(history: list[dict[str, Any]], result: Fit, path: Path) -> None:
    end = {
        "weights": result.weights,
        "validation_loss": None if math.isnan(result.validation_loss) else result.validation_loss,
        "steps": result.steps,
        "minutes": result.minutes,
    }
    write_text(path, json.dumps([*history, end], indent=1) + "\n")
