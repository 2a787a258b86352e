"""Training with the stock tools: optimizer rule, parameter groups, distillation."""

import copy
import io
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from adder_toy import L1, assert_equal, assert_same, batches, loss_of, train
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    MarianConfig,
    MarianMTModel,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
)

from shiftadd_transformers.finetune import Distillation, ShiftAddOptimizer, make_optimizer
from shiftadd_transformers.finetune.distillation import soft_loss
from shiftadd_transformers.finetune.optimizer import adder_gradient
from shiftadd_transformers.layers import LatentModule, latent_type
from shiftadd_transformers.specs import AdderSpec, BcqSpec, ShiftAddSpec, ShiftSpec

# -- the adder rule


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
def test_rescaled_norm(dtype, scale):
    gradient = (torch.randn(30, 20) * scale).to(dtype)
    tolerance = 1e-2 if dtype == torch.bfloat16 else 1e-6
    assert adder_gradient(gradient, 0.2).double().norm().item() == pytest.approx(0.2 * 600**0.5, rel=tolerance)


def test_zero_gradient_stays_zero():
    assert torch.equal(adder_gradient(torch.zeros(3), 0.2), torch.zeros(3))


@pytest.mark.parametrize("options", [{}, {"foreach": True}, {"fused": True}], ids=str)
def test_each_group_follows_its_rule(options):
    ours = train(model := L1(), model.optimizer(**options), batches(4))
    twin = L1()
    adamw = torch.optim.AdamW(twin.front.parameters(), lr=0.01, **options)
    sgd = torch.optim.SGD([twin.weight], lr=0.05, momentum=0.9, weight_decay=0.01)
    for batch in batches(4):
        adamw.zero_grad(), sgd.zero_grad()
        loss_of(twin, batch).backward()
        g = twin.weight.grad
        twin.weight.grad = 0.2 * g.numel() ** 0.5 * g / g.norm()
        adamw.step(), sgd.step()
    assert_same(ours, twin, rtol=1e-6, atol=1e-7)


def test_step_leaves_gradients_alone():
    model = L1()
    loss_of(model, *batches(1)).backward()
    before = model.weight.grad.clone()
    model.optimizer().step()
    assert torch.equal(model.weight.grad, before)


def test_missing_gradients_are_skipped():
    model = L1()
    optimizer = model.optimizer()
    before = model.weight.clone()
    model.front(batches(1)[0][0]).sum().backward()
    optimizer.step()
    assert torch.equal(model.weight, before)
    assert model.weight not in optimizer.state


def test_closure():
    model, twin = L1(), L1()
    optimizer, (batch,) = model.optimizer(), batches(1)

    def closure():
        optimizer.zero_grad()
        loss = loss_of(model, batch)
        loss.backward()
        return loss

    assert optimizer.step(closure) == loss_of(twin, batch)
    assert_equal(model, train(twin, twin.optimizer(), [batch]))


def test_scheduler_reaches_the_adder_group():
    model = L1()
    optimizer = model.optimizer()
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0 if step else 1.0)
    (batch,) = batches(1)
    train(model, optimizer, [batch])
    schedule.step()
    before = copy.deepcopy(model)
    train(model, optimizer, [batch])
    assert_equal(model, before)


def test_step_hooks_run_once():
    # Creating a plain AdamW wraps the step of the base class too.
    torch.optim.AdamW([nn.Parameter(torch.zeros(1))])
    model, calls = L1(), []
    optimizer = model.optimizer()
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    train(model, optimizer, batches(1))
    assert calls == ["before", "after"]


@pytest.mark.parametrize("options", [{}, {"fused": True}], ids=str)
def test_loss_scaling_does_not_change_the_step(options):
    model, twin = L1(), L1()
    optimizer, scaler = model.optimizer(**options), torch.amp.GradScaler("cpu", init_scale=65536.0)
    data = batches(3)
    for batch in data:
        optimizer.zero_grad()
        scaler.scale(loss_of(model, batch)).backward()
        scaler.step(optimizer)
        scaler.update()
    assert_same(model, train(twin, twin.optimizer(**options), data), rtol=1e-6, atol=1e-7)


def test_loss_scaling_skips_infinite_gradients():
    model = L1()
    before = copy.deepcopy(model)
    optimizer, scaler = model.optimizer(), torch.amp.GradScaler("cpu")
    scaler.scale(loss_of(model, *batches(1)) * float("inf")).backward()
    scaler.step(optimizer)
    assert_equal(model, before)


def test_accumulated_micro_batches_equal_one_batch():
    model, twin = L1(), L1()
    optimizer = model.optimizer()
    for x, y in batches(3):
        optimizer.zero_grad()
        for part in range(2):
            (loss_of(model, (x[part::2], y[part::2])) / 2).backward()
        optimizer.step()
    assert_same(model, train(twin, twin.optimizer(), batches(3)), rtol=1e-5, atol=1e-6)


def test_clipping_does_not_change_the_adder_step():
    model, twin = L1(), L1()
    for net, limit in ((model, 1e-3), (twin, 1e9)):
        loss_of(net, *batches(1)).backward()
        nn.utils.clip_grad_norm_(net.parameters(), limit)
        net.optimizer().step()
    torch.testing.assert_close(model.weight, twin.weight)


@pytest.mark.parametrize("options", [{}, {"fused": True}], ids=str)
def test_resume_is_exact(options):
    data = batches(6)
    whole = train(model := L1(), model.optimizer(**options), data)
    half = L1()
    optimizer = half.optimizer(**options)
    train(half, optimizer, data[:3])
    saved = io.BytesIO()
    torch.save({"model": half.state_dict(), "optimizer": optimizer.state_dict()}, saved)
    saved.seek(0)
    loaded = torch.load(saved)
    resumed = L1()
    resumed.load_state_dict(loaded["model"])
    optimizer = resumed.optimizer(**options)
    optimizer.load_state_dict(loaded["optimizer"])
    assert_equal(train(resumed, optimizer, data[3:]), whole)


def test_bad_groups_are_refused():
    weight = nn.Parameter(torch.zeros(1))
    with pytest.raises(ValueError, match="'adder'"):
        ShiftAddOptimizer([{"params": [weight], "rule": "addre"}])
    with pytest.raises(ValueError, match="eta"):
        ShiftAddOptimizer([{"params": [weight], "rule": "adder", "eta": 0.0}])
    with pytest.raises(ValueError, match="momentum"):
        ShiftAddOptimizer([{"params": [weight], "rule": "adder", "momentum": 1.0}])


# -- parameter groups


class Zoo(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.norm, self.head = nn.Embedding(7, 6), nn.LayerNorm(6), nn.Linear(6, 7)
        self.head.weight = self.embed.weight
        specs = {
            "adder": AdderSpec(),
            "slow": AdderSpec(eta=0.1),
            "cascade": ShiftAddSpec(),
            "q": ShiftSpec(),
            "ps": ShiftSpec(parametrization="ps"),
            "dense_shift": ShiftSpec(bits=3, parametrization="denseshift"),
            "bcq": BcqSpec(),
        }
        layers = {name: latent_type(spec).from_dense(nn.Linear(6, 6), spec) for name, spec in specs.items()}
        self.layers = nn.ModuleDict(layers)


def test_every_parameter_is_in_the_group_that_its_operator_needs():
    model = Zoo()
    model.layers["q"].bias.requires_grad_(False)
    optimizer = make_optimizer(
        model, 1e-3, adder_lr=0.1, weight_decay=0.02, reference_weight_decay=1e-5, sign_lr_factor=10
    )
    names = {id(p): name for name, p in model.named_parameters()}
    groups = {}
    for group in optimizer.param_groups:
        key = (group["name"], group.get("eta"))
        groups[key] = ({names[id(p)].removeprefix("layers.") for p in group["params"]}, group)
    assert groups["adder", 0.2][0] == {"adder.weight", "cascade.adder_weight"}
    assert groups["adder", 0.1][0] == {"slow.weight"}
    assert groups["shift", None][0] == {"ps.shift"}
    assert groups["sign", None][0] == {"ps.sign"}
    assert groups["reference", None][0] == {"dense_shift.sign", "dense_shift.shift"}
    assert groups["decay", None][0] == {"embed.weight", "cascade.weight", "q.weight", "bcq.weight"}
    assert {"norm.weight", "norm.bias", "head.bias", "bcq.alpha", "adder.output_scale"} <= groups["no_decay", None][0]
    listed = [p for group in optimizer.param_groups for p in group["params"]]
    trainable = [p for p in model.parameters() if p.requires_grad]
    assert len(listed) == len({id(p) for p in listed}) == len(trainable)
    settings = {name: (g["lr"], g["weight_decay"]) for (name, _), (_, g) in groups.items()}
    assert settings == {
        "adder": (0.1, 0.0),
        "shift": (1e-3, 0.0),
        "sign": (1e-2, 0.0),
        "reference": (1e-5, 1e-5),
        "decay": (1e-3, 0.02),
        "no_decay": (1e-3, 0.0),
    }
    assert all(group["rule"] == ("adder" if group["name"] == "adder" else "adamw") for group in optimizer.param_groups)


def test_packed_model_has_nothing_to_train():
    spec = ShiftSpec()
    packed = latent_type(spec).from_dense(nn.Linear(4, 4, bias=False), spec).pack()
    with pytest.raises(ValueError, match="unpack"):
        make_optimizer(packed, 1e-3)


# -- distillation


def marian(seed=0):
    torch.manual_seed(seed)
    config = MarianConfig(
        vocab_size=40,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_position_embeddings=32,
        pad_token_id=39,
        eos_token_id=0,
        bos_token_id=None,
        decoder_start_token_id=39,
        forced_eos_token_id=None,
        dropout=0.0,
    )
    return MarianMTModel(config)


def examples(count=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    source = torch.randint(1, 39, (count, 6), generator=generator)
    labels = source.flip(1)
    labels[::2, -2:] = -100
    start = torch.full((count, 1), 39)
    decoder = torch.cat([start, labels.clamp_min(0)[:, :-1]], 1)
    return [
        {"input_ids": s, "attention_mask": torch.ones_like(s), "labels": y, "decoder_input_ids": d}
        for s, y, d in zip(source, labels, decoder, strict=True)
    ]


def collated(rows):
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def distilled(student, loss, batch, items=None):
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    return loss(student(**inputs), batch["labels"], num_items_in_batch=items)


def test_alpha_zero_is_the_models_own_loss():
    student, batch = marian(), collated(examples())
    loss = Distillation(marian(1), alpha=0.0).attach(student)
    torch.testing.assert_close(distilled(student.train(), loss, batch), student(**batch).loss)


@pytest.mark.parametrize("alpha", [0.3, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_value_by_hand(alpha, temperature):
    student, teacher, batch = marian(), marian(1), collated(examples())
    loss = Distillation(teacher, alpha, temperature).attach(student)
    value = distilled(student.train(), loss, batch)
    kept = batch["labels"] != -100
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    with torch.no_grad():
        s, t = student(**inputs).logits[kept].double(), teacher(**inputs).logits[kept].double()
    p, q = (t / temperature).softmax(-1), (s / temperature).softmax(-1)
    soft = temperature**2 * (p * (p.log() - q.log())).sum() / kept.sum()
    hard = -s.log_softmax(-1)[torch.arange(len(s)), batch["labels"][kept]].mean()
    torch.testing.assert_close(value.double(), (1 - alpha) * hard + alpha * soft, rtol=1e-5, atol=1e-6)


def test_gradient_of_the_soft_loss():
    student = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(5, 7, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda s: soft_loss(s, teacher, 2.0), student)


def test_label_smoothing_is_the_trainers_and_stops_in_evaluation():
    from transformers.trainer_pt_utils import LabelSmoother

    student, batch = marian().train(), collated(examples())
    loss = Distillation(marian(1), alpha=0.0, label_smoothing=0.1).attach(student)
    outputs = student(**{name: value for name, value in batch.items() if name != "labels"})
    torch.testing.assert_close(loss(outputs, batch["labels"]), LabelSmoother(0.1)(outputs, batch["labels"]))
    torch.testing.assert_close(distilled(student.eval(), loss, batch), student(**batch).loss)


def test_micro_batches_sum_to_the_batch():
    student, rows = marian().train(), examples()
    loss = Distillation(marian(1)).attach(student)
    whole = collated(rows)
    items = (whole["labels"] != -100).sum()
    parts = sum(distilled(student, loss, collated(rows[i : i + 2]), items) for i in range(0, 8, 2))
    torch.testing.assert_close(parts, distilled(student, loss, whole))


def test_evaluation_is_plain_cross_entropy_without_the_teacher():
    student, teacher, batch = marian().eval(), marian(1), collated(examples())
    loss = Distillation(teacher, alpha=0.9).attach(student)
    teacher.forward = None  # would fail if called
    torch.testing.assert_close(distilled(student, loss, batch), student(**batch).loss)


def test_causal_language_model_is_shifted():
    config = GPT2Config(vocab_size=30, n_positions=16, n_embd=16, n_layer=1, n_head=2, resid_pdrop=0, embd_pdrop=0)
    config.attn_pdrop = 0.0
    student, teacher = GPT2LMHeadModel(config).train(), GPT2LMHeadModel(config)
    ids = torch.randint(0, 30, (2, 8))
    batch = {"input_ids": ids, "labels": ids.clone()}
    loss = Distillation(teacher, alpha=0.0).attach(student)
    torch.testing.assert_close(distilled(student, loss, batch), student(**batch).loss)
    loss = Distillation(copy.deepcopy(student), alpha=1.0).attach(student)
    assert distilled(student, loss, batch).abs() < 1e-6, "the student is its own teacher"
    loss.detach()
    torch.testing.assert_close(distilled(student, loss, batch), student(**batch).loss)


def test_classifier():
    config = BertConfig(
        vocab_size=30,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        num_labels=3,
    )
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    student, teacher = BertForSequenceClassification(config).train(), BertForSequenceClassification(config)
    batch = {"input_ids": torch.randint(0, 30, (4, 5)), "labels": torch.tensor([0, 1, 2, 1])}
    loss = Distillation(teacher, alpha=0.0).attach(student)
    torch.testing.assert_close(distilled(student, loss, batch), student(**batch).loss)
    with pytest.raises(ValueError, match="class numbers"):
        distilled(student, loss, {**batch, "labels": torch.rand(4)})


def test_teacher_is_untouched_and_stays_outside_the_student(tmp_path):
    student, teacher, batch = marian(), marian(1), collated(examples())
    before = copy.deepcopy(teacher)
    sizes = len(pickle.dumps(student)), len(list(student.parameters())), len(student.state_dict())
    loss = Distillation(teacher).attach(student)
    optimizer = make_optimizer(student.train(), 1e-2)
    distilled(student, loss, batch).backward()
    optimizer.step()
    assert_equal(teacher, before)
    assert not teacher.training
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    student.zero_grad()
    assert len(list(student.parameters())) == sizes[1]
    assert len(student.state_dict()) == sizes[2]
    assert len(pickle.dumps(student)) < sizes[0] + 500
    twin = copy.deepcopy(student)
    assert all(hook.owner is None for hook in [*twin._forward_hooks.values(), *twin._forward_pre_hooks.values()])
    twin(**batch)  # an inert hook
    student.save_pretrained(tmp_path)
    assert_equal(MarianMTModel.from_pretrained(tmp_path), student)


def test_mistakes_are_explained():
    student, batch = marian().train(), collated(examples())
    loss = Distillation(marian(1))
    with pytest.raises(RuntimeError, match="attach"):
        distilled(student, loss, batch)
    with pytest.raises(ValueError, match="share"):
        loss.attach(loss.teacher)
    loss.attach(student)
    del batch["decoder_input_ids"]
    with pytest.raises(ValueError, match="DataCollatorForSeq2Seq"):
        student(input_ids=batch["input_ids"])
    batch = collated(examples())
    outputs = student.forward(**{k: v for k, v in batch.items() if k != "labels"})
    with pytest.raises(RuntimeError, match="forward"):
        loss(outputs, batch["labels"])
    for options in ({"alpha": 1.5}, {"temperature": 0.0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            Distillation(marian(), **options)


# -- stock trainers


def hybrid(seed=0):
    """A Marian with adder and shift layers, by hand: conversion has its own tests."""
    model = marian(seed)
    for block, spec in (
        (model.model.encoder.layers[0], AdderSpec()),
        (model.model.decoder.layers[0], ShiftSpec()),
    ):
        block.fc1 = latent_type(spec).from_dense(block.fc1, spec)
    return model


def trainer(folder, model, teacher, **options):
    defaults = {
        "max_steps": 4,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "save_steps": 2,
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    arguments = Seq2SeqTrainingArguments(str(folder), **{**defaults, **options})
    loss = Distillation(teacher, alpha=0.5).attach(model)
    return Seq2SeqTrainer(
        model,
        arguments,
        data_collator=collated,
        train_dataset=examples(32),
        eval_dataset=examples(8, seed=1),
        optimizers=(make_optimizer(model, 1e-2), None),
        compute_loss_func=loss,
    )


def test_stock_trainer_resumes_exactly(tmp_path):
    whole = trainer(tmp_path, hybrid(), marian(1))
    whole.train()
    saved = {p.name for p in (tmp_path / "checkpoint-2").iterdir()}
    assert "optimizer.pt" in saved
    resumed = trainer(tmp_path, hybrid(), marian(1))
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert resumed.state.global_step == 4
    assert_equal(resumed.model, whole.model)


def test_stock_trainer_loads_the_best_model_in_bfloat16(tmp_path):
    run = trainer(
        tmp_path,
        hybrid(),
        marian(1),
        bf16=True,
        eval_strategy="steps",
        eval_steps=2,
        load_best_model_at_end=True,
        predict_with_generate=True,
        generation_max_length=8,
    )
    run.train()
    best = min(entry["eval_loss"] for entry in run.state.log_history if "eval_loss" in entry)
    assert run.evaluate()["eval_loss"] == pytest.approx(best, rel=1e-4)
    assert run.state.best_model_checkpoint is not None
    assert any(isinstance(module, LatentModule) for module in run.model.modules())


TORCHRUN = """
import sys
sys.path.insert(0, {folder!r})
import torch
from adder_toy import two_processes_agree_with_one
from test_finetune import hybrid, marian, trainer
run = trainer(sys.argv[1], hybrid(), marian(1), max_steps=2, ddp_backend="gloo",
              per_device_train_batch_size=2, save_strategy="no")
run.train()
torch.save(run.model.state_dict(), sys.argv[1] + f"/rank{{run.args.process_index}}.pt")
two_processes_agree_with_one(run.args.process_index)
"""


def torchrun(*command):
    """Two processes on this machine; their output, if they fail."""
    here = Path(__file__).parent
    path = filter(None, [str(here.parent), os.environ.get("PYTHONPATH")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(path)}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run([*launch, *map(str, command)], capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def test_two_processes_train_the_same_model_and_agree_with_one(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(TORCHRUN.format(folder=str(Path(__file__).parent)))
    torchrun(script, tmp_path)
    first, second = (torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2))
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    single = trainer(tmp_path, hybrid(), marian(1), max_steps=2, save_strategy="no")
    single.train()
    for name, value in single.model.state_dict().items():
        torch.testing.assert_close(first[name], value, rtol=1e-3, atol=1e-4, msg=name)
