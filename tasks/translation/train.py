"""From a config to a trained model in a run folder: the whole path, step by step, and each step on its own.

A run folder holds: config.toml (resolved), data/ (held-out text and report), tokenizer/, checkpoints/, model/
and, with a plan, packed/; history.json and results/ grow as it goes.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F
from transformers import PrinterCallback, Seq2SeqTrainer, Seq2SeqTrainingArguments, set_seed
from transformers.utils.logging import disable_progress_bar

from shiftadd_transformers.hf import save
from tasks.config import write_config, write_text
from tasks.errors import Interrupted, TaskError
from tasks.translation import conversion
from tasks.translation.batches import IGNORED, Collator, TokenBatches, encode_pairs
from tasks.translation.checkpoints import average_checkpoints, checkpoints
from tasks.translation.config import TrainConfig, TranslationConfig
from tasks.translation.data import load_pairs, save_corpus
from tasks.translation.model import build_model, load_model
from tasks.translation.pairs import Corpus
from tasks.translation.schedule import UNKNOWN_END, Pace, Progress, Reshuffle, Schedule, StopOnSignal
from tasks.translation.tokenizer import load_tokenizer, train_tokenizer

Loss = Callable[..., torch.Tensor]


@dataclass
class Fit:
    """What one training gave: the model with its best weights, and how it went."""

    model: Any
    validation_loss: float
    steps: int
    minutes: float
    interrupted: bool
    weights: str  # "best checkpoint" or "average of ..."


@dataclass
class Run:
    """Everything a caller may want to go on with after `train`."""

    folder: Path
    model: Any
    tokenizer: Any
    corpus: Corpus
    fit: Fit


def train(config: TranslationConfig, *, resume: bool = False, overwrite: bool = False, quiet: bool = False) -> Run:
    """Load data, train the vocabulary, train the model, save it.

    Args:
        config: the whole config.
        resume: go on from the last checkpoint of the run folder.
        overwrite: throw an earlier run in the same folder away.
        quiet: no progress bar and no messages.

    Returns:
        The finished run.

    Raises:
        TaskError: anything in the config or the data that the user can put right.
        Interrupted: Ctrl-C; a resumable checkpoint has been written.
    """
    disable_progress_bar()  # transformers draws one for every checkpoint; ours shows the whole training
    folder = prepare_folder(config, resume=resume, overwrite=overwrite)
    say = (lambda text: None) if quiet else print
    corpus = load_pairs(config.data)
    save_corpus(corpus, folder / "data")
    say(f"{corpus.report}\n  train {len(corpus.train)}, validation {len(corpus.validation)}, test {len(corpus.test)}")
    set_seed(config.seed)
    model, tokenizer = make_model(config, corpus, folder, resume=resume)
    loss, optimizer = prepare_plan(model, config)
    fit_result = fit(
        model,
        tokenizer,
        corpus,
        config.train,
        folder / "checkpoints",
        seed=config.seed,
        resume=resume,
        loss=loss,
        optimizer=optimizer,
        quiet=quiet,
    )
    if fit_result.interrupted:
        raise Interrupted(f"stopped at step {fit_result.steps}; a checkpoint is in {folder / 'checkpoints'}")
    say(f"validation loss {fit_result.validation_loss:.4f} after {fit_result.steps} steps ({fit_result.weights})")
    save(model, folder / "model", tokenizer)
    if config.plan is not None and config.plan.pack:
        conversion.save_packed(copy.deepcopy(model), tokenizer, folder / "packed")
    return Run(folder, model, tokenizer, corpus, fit_result)


def prepare_folder(config: TranslationConfig, *, resume: bool, overwrite: bool) -> Path:
    """Make the run folder and write the resolved config; never overwrites an earlier run by accident."""
    folder = Path(config.run_dir)
    if resume and not checkpoints(folder / "checkpoints"):
        raise TaskError(f"nothing to resume: {folder / 'checkpoints'} holds no checkpoint")
    if not resume and any((folder / name).exists() for name in ("model", "checkpoints")):
        if not overwrite:
            raise TaskError(f"{folder} already holds a run: use --resume, --overwrite, or another run_dir")
        for name in ("checkpoints", "model", "packed", "tokenizer", "data", "results"):
            shutil.rmtree(folder / name, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    write_config(config, folder / "config.toml")
    return folder


def make_model(config: TranslationConfig, corpus: Corpus, folder: Path, *, resume: bool = False) -> tuple[Any, Any]:
    """A pretrained model with its tokenizer, or a fresh one with a vocabulary trained on the corpus."""
    if config.model.pretrained is not None:
        return load_model(config.model.pretrained)
    if resume:
        tokenizer = load_tokenizer(folder / "tokenizer")
    else:
        languages = (corpus.source_language, corpus.target_language)
        tokenizer = train_tokenizer(corpus.train, config.tokenizer, folder / "tokenizer", languages)
    return build_model(config.model, tokenizer), tokenizer


def prepare_plan(model: Any, config: TranslationConfig) -> tuple[Loss | None, Any]:
    """Convert the model in place if the config has a plan.

    Returns:
        (distillation loss or None, the library's optimizer or None)
    """
    if config.plan is None:
        return None, None
    distil = config.plan.distill is not None and config.plan.distill.teacher is None
    start = copy.deepcopy(model) if distil and config.model.pretrained is not None else None
    conversion.convert(model, config.plan)
    loss = conversion.distillation(model, start, config.plan)
    return loss, conversion.latent_optimizer(model, config.train.learning_rate, config.train.weight_decay)


def fit(
    model: Any,
    tokenizer: Any,
    corpus: Corpus,
    config: TrainConfig,
    folder: str | Path,
    *,
    seed: int = 42,
    resume: bool = False,
    loss: Loss | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    label: str = "training",
    quiet: bool = False,
) -> Fit:
    """Train with the stock `Seq2SeqTrainer`; the model ends with the weights of lowest validation loss.

    Args:
        model: dense or latent; trained in place.
        tokenizer: its tokenizer.
        corpus: training and validation pairs.
        config: the `[train]` table.
        folder: for the checkpoints.
        seed: of the order of batches.
        resume: go on from the last checkpoint in `folder`.
        loss: a function of (outputs, labels, num_items_in_batch); label-smoothed cross entropy by default.
        optimizer: AdamW without decay on biases and norms by default.
        label: shown beside the progress bar.
        quiet: no progress bar.

    Returns:
        How it went; `interrupted` after Ctrl-C.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    _expect_tied_weights(model)
    sets = [
        TokenBatches(_encoded(tokenizer, getattr(corpus, part), config, part), config.batch_tokens, seed)
        for part in ("train", "validation")
    ]
    steps = total_steps(config, len(sets[0]))
    schedule = Schedule(config.schedule, config.warmup_steps, steps)
    optimizer = optimizer or dense_optimizer(model, config)
    stop, pace = StopOnSignal(), Pace(schedule, config.max_minutes, config.max_steps)
    trainer = Seq2SeqTrainer(
        model,
        training_arguments(config, folder, seed, steps),
        Collator(model),
        train_dataset=sets[0],
        eval_dataset=sets[1],
        processing_class=tokenizer,
        compute_loss_func=loss or SmoothedCrossEntropy(config.label_smoothing),
        optimizers=(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)),
        callbacks=[pace, Reshuffle(sets[0]), stop, *([] if quiet else [Progress(label)])],
    )
    trainer.remove_callback(PrinterCallback)
    with stop:
        trainer.train(resume_from_checkpoint=str(checkpoints(folder)[-1]) if resume else None)
    _write_history(trainer.state.log_history, Path(folder).parent / "history.json")
    return _finish(trainer, config, Path(folder), schedule, interrupted=stop.asked)


class SmoothedCrossEntropy:
    """Cross entropy per target token, with label smoothing while training and without it in validation.

    Args:
        smoothing: probability mass spread over the vocabulary.
    """

    def __init__(self, smoothing: float) -> None:
        self.smoothing = smoothing

    def __call__(self, outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        """Mean loss over the tokens of the (accumulated) batch.

        Args:
            outputs: with `logits` `[B, T, V]`.
            labels: `[B, T]`, padding is -100.
            num_items_in_batch: tokens over all accumulated batches and processes.
        """
        logits = outputs.logits
        total = F.cross_entropy(
            logits.flatten(0, 1),
            labels.flatten(),
            ignore_index=IGNORED,
            reduction="sum",
            label_smoothing=self.smoothing if torch.is_grad_enabled() else 0.0,
        )
        return total / (num_items_in_batch if num_items_in_batch is not None else (labels != IGNORED).sum())


def total_steps(config: TrainConfig, batches: int) -> int:
    """Optimizer steps until the end; unknown yet where a time limit decides."""
    if config.max_minutes is not None:
        return config.max_steps or UNKNOWN_END
    return config.max_steps or max(1, round(config.epochs * batches / config.gradient_accumulation))


def training_arguments(config: TrainConfig, folder: str | Path, seed: int, steps: int) -> Seq2SeqTrainingArguments:
    """The stock arguments; the batch size is 1 because an item of the data set is a whole batch."""
    distributed = int(os.environ.get("WORLD_SIZE", "1")) > 1  # without torchrun, naming a backend is an error
    return Seq2SeqTrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=1,
        per_device_eval_batch_size=1,
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


def _expect_tied_weights(model: Any) -> None:
    """Tell the trainer that shared matrices are stored once, or it warns of missing keys at every reload."""
    known = model._keys_to_ignore_on_save or ()
    model._keys_to_ignore_on_save = {*known, *getattr(model, "all_tied_weights_keys", ())}


def _encoded(tokenizer: Any, pairs: Any, config: TrainConfig, part: str) -> list[tuple[list[int], list[int]]]:
    examples = encode_pairs(tokenizer, pairs, config.max_length)
    if not examples:
        raise TaskError(f"no {part} pair is shorter than train.max_length = {config.max_length} tokens")
    return examples


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


def _write_history(history: list[dict[str, Any]], path: Path) -> None:
    write_text(path, json.dumps(history, indent=1) + "\n")
