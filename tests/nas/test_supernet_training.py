"""Training a supernet: which plans a step visits, what they learn from, and that a stop changes nothing."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import TrainingArguments, ViTConfig, ViTForImageClassification

import shiftadd_transformers as sat
from search import Space, choose
from search.sampling import Sampling
from search.supernet import Supernet
from search.training import SupernetTrainer
from shiftadd_transformers.finetune import make_optimizer

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
CLASSES = 4
LINEAR = {"max_steps": 2, "optim": "sgd", "learning_rate": 0.05, "lr_scheduler_type": "constant"}


class Patches(torch.utils.data.Dataset):
    """The class is the brightest quarter."""

    def __init__(self, count, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.labels = torch.randint(CLASSES, (count,), generator=generator)
        self.pixels = torch.randn(count, 1, 8, 8, generator=generator) * 0.3
        for pixels, label in zip(self.pixels, self.labels, strict=True):
            row, column = 4 * (label // 2), 4 * (label % 2)
            pixels[:, row : row + 4, column : column + 4] += 1

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return {"pixel_values": self.pixels[index], "labels": self.labels[index]}


def make_supernet(**options):
    torch.manual_seed(0)
    config = ViTConfig(image_size=8, patch_size=4, num_channels=1, num_labels=CLASSES, initializer_range=0.2, **SIZES)
    model = ViTForImageClassification(config)
    cores = choose(["softmax", sat.BinaryLinearSpec(kernel_size=3)], role="attn.self")
    layers = choose(["dense", "shift", sat.AdderSpec(norm=True), "mixture"], "*", together="layer")
    return Supernet(model, Space.of(model, [cores, layers]), **options)


def make_trainer(folder, supernet=None, *, sampling=None, loss=None, settings=None, **arguments):
    supernet = supernet or make_supernet()
    space = supernet.space
    sampling = {"randoms": 1, "seed": 5, **(sampling or {})}
    options = {"max_steps": 6, "per_device_train_batch_size": 8, "learning_rate": 3e-3, "save_steps": 3, **arguments}
    lr = options["learning_rate"]
    return SupernetTrainer(
        supernet=supernet,
        sampling=Sampling(space, space.uniform("dense"), space.uniform("shift"), **sampling),
        args=TrainingArguments(str(folder), report_to="none", disable_tqdm=True, use_cpu=True, **options),
        train_dataset=Patches(512),
        eval_dataset=Patches(32, seed=1),
        compute_loss_func=loss,
        optimizers=(None if "optim" in arguments else make_optimizer(supernet.model, lr=lr), None),
        **(settings or {}),
    )


def visited(trainer):
    """The candidates that forward passes in training were run with."""
    seen = []
    choose_ = trainer.supernet.choose
    trainer.supernet.choose = lambda candidate: (seen.append(tuple(candidate)), choose_(candidate))[1]
    return seen


def weights(trainer):
    return {name: p.detach().clone() for name, p in trainer.supernet.model.named_parameters()}


def test_a_sandwich_visits_the_ends_and_random_plans(tmp_path):
    trainer = make_trainer(tmp_path, sampling={"randoms": 2}, max_steps=3)
    seen = visited(trainer)
    trainer.train()
    sampling = trainer.sampling
    assert len(seen) == 12
    assert seen[::4] == [sampling.largest] * 3
    assert seen[1::4] == [sampling.smallest] * 3
    assert seen == [c for step in range(3) for c in sampling.draw(step)]


def test_uniform_sampling_learns_from_the_largest_without_training_it(tmp_path):
    trainer = make_trainer(tmp_path, sampling={"kind": "uniform", "randoms": 1}, max_steps=2)
    seen = visited(trainer)
    trainer.train()
    assert seen[::2] == [trainer.sampling.largest] * 2
    assert len(seen) == 4


def test_draws_depend_on_seed_step_and_micro_batch_alone():
    space = make_supernet().space
    ends = space.uniform("dense"), space.uniform("shift")
    first, same, other = (Sampling(space, *ends, randoms=4, seed=seed) for seed in (1, 1, 2))
    random.seed(0)
    assert first.draw(3) == same.draw(3)
    assert first.draw(3) != first.draw(4)
    assert first.draw(3) != first.draw(3, part=1)
    assert first.draw(3) != other.draw(3)
    assert all(space.canonical(c) == c for c in first.draw(3))


def test_sampling_nothing_is_refused():
    space = make_supernet().space
    with pytest.raises(ValueError, match="randoms"):
        Sampling(space, space.uniform("dense"), space.uniform("shift"), kind="uniform", randoms=0)
    with pytest.raises(ValueError, match="sandwich"):
        Sampling(space, space.uniform("dense"), space.uniform("shift"), kind="sandwhich")


def test_it_learns_for_all_plans(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=50, learning_rate=1e-2, save_strategy="no")
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < 0.7 * before
    supernet, data = trainer.supernet, Patches(64, seed=2)
    for candidate in (supernet.space.uniform("shift"), supernet.space.sample(random.Random(0))):
        model = supernet.extract(candidate).eval()
        with torch.no_grad():
            right = (model(data.pixels).logits.argmax(-1) == data.labels).float().mean()
        assert right > 0.45  # chance is 0.25


@pytest.mark.parametrize("with_loss", [False, True])
def test_gradients_are_the_mean_over_candidates(tmp_path, with_loss):
    """One step of plain SGD against gradients by hand."""

    def loss_of(outputs, labels, num_items_in_batch=None):
        return nn.functional.cross_entropy(outputs.logits, labels, reduction="sum") / num_items_in_batch

    settings = {"distill": 0.25, "temperature": 2.0, "matching": 0.3}
    trainer = make_trainer(tmp_path, settings=settings, loss=loss_of if with_loss else None, max_steps=1)
    trainer.create_optimizer_and_scheduler(1)
    batch = next(iter(trainer.get_train_dataloader()))
    copy = make_supernet()
    copy.model.load_state_dict(trainer.supernet.model.state_dict())
    trainer.current_gradient_accumulation_steps = 1
    count = torch.tensor(len(batch["labels"])) if with_loss else None
    torch.manual_seed(1)
    trainer.training_step(trainer.supernet.model, dict(batch), count)

    torch.manual_seed(1)
    copy.model.train()
    parts, teacher = [], None
    for candidate in trainer.sampling.draw(0):
        logits = copy.choose(candidate).model(batch["pixel_values"]).logits
        loss = nn.functional.cross_entropy(logits, batch["labels"])
        if teacher is None:
            teacher = logits.detach()
        else:
            goal, found = (t.div(2).log_softmax(-1) for t in (teacher, logits))
            soft = 4 * nn.functional.kl_div(found, goal, log_target=True, reduction="batchmean")
            loss = 0.75 * loss + 0.25 * soft
        parts.append(loss)
    (torch.stack(parts).mean() + 0.3 * copy.mismatch()).backward()
    expected = {name: p.grad for name, p in copy.model.named_parameters()}
    for name, parameter in trainer.supernet.model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("steps", [1, 4])
def test_the_matching_loss_counts_once_however_the_batch_is_split(tmp_path, steps):
    trainer = make_trainer(tmp_path, settings={"matching": 1.0, "distill": 0.0})
    trainer.current_gradient_accumulation_steps = steps
    trainer.create_optimizer_and_scheduler(1)
    total = sum(trainer._match() for _ in range(steps))
    expected = trainer.supernet.mismatch()
    assert float(total) == pytest.approx(expected.item())
    parameters = [p for p in trainer.supernet.model.parameters() if p.grad is not None]
    for parameter, gradient in zip(parameters, torch.autograd.grad(expected, parameters), strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_a_resumed_training_equals_an_uninterrupted_one(tmp_path):
    whole = make_trainer(tmp_path / "whole", lr_scheduler_type="constant")
    whole.train()
    first = make_trainer(tmp_path / "parts", lr_scheduler_type="constant", max_steps=3)
    first.train()
    second = make_trainer(tmp_path / "parts", lr_scheduler_type="constant")
    second.train(resume_from_checkpoint=str(tmp_path / "parts" / "checkpoint-3"))
    expected = weights(whole)
    for name, value in weights(second).items():
        torch.testing.assert_close(value, expected[name], msg=name)


def test_settings_out_of_range_are_refused(tmp_path):
    for settings in ({"distill": 1.5}, {"temperature": 0}, {"matching": -1}):
        with pytest.raises(ValueError, match="distill"):
            make_trainer(tmp_path, settings=settings)


def test_two_processes_train_one_supernet(tmp_path):
    """Both ranks visit the same plans and end equal, near a single process on the whole batch."""
    script = Path(__file__).with_name("two_processes.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=0"]
    command = [*command, "--rdzv_backend=c10d", "--rdzv_endpoint=localhost:0", str(script), str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    ranks = [torch.load(tmp_path / f"rank{i}.pt") for i in (0, 1)]
    trained = dict(make_supernet().model.named_parameters())
    assert all(torch.equal(ranks[0][name], ranks[1][name]) for name in trained)

    single = make_trainer(tmp_path / "single", **LINEAR)
    single.train()
    moved = 0
    for name, parameter in single.supernet.model.named_parameters():
        torch.testing.assert_close(ranks[0][name], parameter.detach(), rtol=1e-3, atol=1e-4, msg=name)
        moved += not torch.equal(trained[name], parameter)
    assert moved > 20
