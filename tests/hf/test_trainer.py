"""The stock Trainer trains latent models: resume, best model, bfloat16, two processes; it refuses packed ones."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hf.families import BY_NAME, LENGTH, VOCABULARY
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, Trainer, TrainerCallback, TrainingArguments

from shiftadd_transformers import AdderSpec, BcqSpec, ShiftAddSpec, ShiftSpec, convert_, load, pack_, rule, unpack_

RULES = [
    rule(role="attn.q", op=AdderSpec()),
    rule(role="attn.v", op=ShiftAddSpec()),
    rule(role="attn.o", op=BcqSpec()),
    rule(role="mlp.down", op=ShiftSpec(parametrization="ps")),
    rule("*", ShiftSpec()),
]


def examples(count: int = 12) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(4, VOCABULARY, (count, LENGTH), generator=generator)
    return [{"input_ids": row, "labels": row.flip(0), "decoder_input_ids": row.flip(0).roll(1)} for row in ids]


def latent(name: str = "marian"):
    family = BY_NAME[name]
    options = {**family.options, "dropout": 0.0}
    torch.manual_seed(0)
    return convert_(family.head(family.config(**options)), RULES)


def arguments(folder: Path, cls=Seq2SeqTrainingArguments, **options):
    fixed = {
        "output_dir": str(folder),
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "max_steps": 6,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-3,
        "logging_strategy": "no",
        "save_strategy": "no",
        "dataloader_pin_memory": False,
        "seed": 0,
    }
    return cls(**{**fixed, **options})


def mean_over_tokens(outputs, labels, num_items_in_batch=None):
    """Marian's own loss ignores `num_items_in_batch`, which the Trainer takes its `**kwargs` to honour: accumulated
    and distributed gradients then come out too large, for a dense Marian as well (transformers 5.23)."""
    total = F.cross_entropy(outputs.logits.flatten(0, 1), labels.flatten(), reduction="sum")
    return total / (labels.numel() if num_items_in_batch is None else num_items_in_batch)


def trainer(folder: Path, model=None, cls=Seq2SeqTrainer, callbacks=None, **options):
    args = arguments(folder, TrainingArguments if cls is Trainer else Seq2SeqTrainingArguments, **options)
    return cls(
        model or latent(),
        args,
        train_dataset=examples(),
        eval_dataset=examples(4),
        callbacks=callbacks,
        compute_loss_func=mean_over_tokens,
    )


def equal(one, other) -> bool:
    one, other = one.state_dict(), other.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


@pytest.mark.parametrize("cls", [Trainer, Seq2SeqTrainer])
def test_training_lowers_the_loss_and_packing_keeps_it(tmp_path, cls):
    run = trainer(tmp_path, cls=cls, max_steps=40, learning_rate=3e-3)
    before = run.evaluate()["eval_loss"]
    run.train()
    after = run.evaluate()["eval_loss"]
    assert after < 0.95 * before
    pack_(run.model)
    assert run.evaluate()["eval_loss"] == after


def test_resuming_equals_an_uninterrupted_run(tmp_path):
    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step == 3

    whole = trainer(tmp_path / "whole")
    whole.train()
    options = {"save_strategy": "steps", "save_steps": 3}
    trainer(tmp_path / "parts", callbacks=[Stop()], **options).train()
    assert [p.name for p in (tmp_path / "parts").iterdir()] == ["checkpoint-3"]
    resumed = trainer(tmp_path / "parts", latent(), **options)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 6
    assert equal(resumed.model, whole.model)


def test_a_trainer_checkpoint_is_an_ordinary_one(tmp_path):
    run = trainer(tmp_path, save_strategy="steps", save_steps=6)
    run.train()
    model = load(tmp_path / "checkpoint-6")
    assert equal(model, run.model)
    assert model.config.quantization_config.state == "latent"


def test_the_best_model_comes_back(tmp_path):
    run = trainer(
        tmp_path,
        load_best_model_at_end=True,
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        save_steps=2,
        max_steps=6,
        learning_rate=0.3,
        lr_scheduler_type="constant",
    )
    run.train()
    losses = {e["step"]: e["eval_loss"] for e in run.state.log_history if "eval_loss" in e}
    best = min(losses, key=losses.get)
    assert run.state.best_model_checkpoint.endswith(f"checkpoint-{best}")
    assert run.evaluate()["eval_loss"] == losses[best]
    assert equal(run.model, load(tmp_path / f"checkpoint-{best}"))


def test_bfloat16_training(tmp_path):
    run = trainer(tmp_path, bf16=True, max_steps=30, learning_rate=3e-3)
    before = run.evaluate()["eval_loss"]
    run.train()
    assert run.evaluate()["eval_loss"] < before
    assert {p.dtype for p in run.model.parameters()} == {torch.float32}


def test_a_model_in_bfloat16_trains(tmp_path):
    run = trainer(tmp_path, latent().to(torch.bfloat16), max_steps=3)
    run.train()
    assert all(p.isfinite().all() for p in run.model.parameters())


def test_gradient_accumulation_and_checkpointing(tmp_path):
    options = {"max_steps": 1, "optim": "sgd", "learning_rate": 0.1}
    halves = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    accumulated, whole = trainer(tmp_path / "a", **halves, **options), trainer(tmp_path / "b", **options)
    for run in (accumulated, whole):
        run.train()
    for (name, one), two in zip(accumulated.model.named_parameters(), whole.model.parameters(), strict=True):
        torch.testing.assert_close(one, two, msg=name)
    trainer(tmp_path / "c", latent(), activation_checkpointing=True, max_steps=1).train()


def test_a_packed_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match="cannot perform fine-tuning on purely quantized models"):
        trainer(tmp_path, pack_(latent()))
    trainer(tmp_path, unpack_(pack_(latent())), max_steps=1).train()


def test_generation_during_evaluation(tmp_path):
    run = trainer(tmp_path, predict_with_generate=True, generation_max_length=6, max_steps=1)
    assert run.predict(examples(4)).predictions.shape[0] == 4


def test_two_processes_train_one_model(tmp_path):
    """Gradients are averaged: both ranks end equal, and near a single process on the whole batch."""
    script = Path(__file__).with_name("two_processes.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=0"]
    command = [*command, "--rdzv_backend=c10d", "--rdzv_endpoint=localhost:0", str(script), str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    ranks = [torch.load(tmp_path / f"rank{i}.pt") for i in (0, 1)]
    assert all(torch.equal(ranks[0][name], ranks[1][name]) for name in ranks[0])

    single = trainer(tmp_path / "single", max_steps=2, optim="sgd", learning_rate=0.1)
    start = {name: p.clone() for name, p in single.model.named_parameters()}
    single.train()
    moved = 0
    for name, parameter in single.model.named_parameters():
        torch.testing.assert_close(ranks[0][name], parameter.detach(), msg=name)
        moved += not torch.equal(start[name], parameter)
    assert moved > 50
