"""What happens to converted layers inside the stock Trainer: balance, dead features, frozen weights, logs."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainerCallback, TrainingArguments

from shiftadd_transformers import convert_, load, pack_, rule, save
from shiftadd_transformers.finetune import make_optimizer
from shiftadd_transformers.hf.callbacks import DeadFeatures, ExpertShares, FreezeOperators
from shiftadd_transformers.layers import LatentModule, MixtureLinear, expert_shares
from shiftadd_transformers.specs import AdderSpec, MixtureSpec, ShiftAddSpec, ShiftSpec

WIDTH, LENGTH, WORDS = 16, 6, 40


def tiny(rules):
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=2 * WIDTH,
        vocab_size=WORDS,
        max_position_embeddings=LENGTH,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        num_labels=3,
    )
    return convert_(BertForSequenceClassification(config), rules)


def mixed(**fields):
    return tiny([rule(role="mlp.*", op=MixtureSpec(**fields))])


def examples(count=32):
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(WORDS, (count, LENGTH), generator=generator)
    return [{"input_ids": row, "labels": row[0] % 3} for row in ids]


def trainer(folder, model, callbacks=(), compute_loss_func=None, optimizer=None, **options):
    fixed = {
        "output_dir": str(folder),
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "max_steps": 4,
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-3,
        "logging_strategy": "no",
        "save_strategy": "no",
        "dataloader_pin_memory": False,
        "seed": 0,
    }
    return Trainer(
        model,
        TrainingArguments(**{**fixed, **options}),
        train_dataset=examples(),
        eval_dataset=examples(8),
        callbacks=list(callbacks),
        compute_loss_func=compute_loss_func,
        optimizers=(optimizer, None),
    )


class Gradients(TrainerCallback):
    """Keeps each step's gradient of every router, as the optimizer sees it."""

    def __init__(self):
        self.seen = []

    def on_pre_optimizer_step(self, args, state, control, model, **_):
        routers = [m.router.grad for m in model.modules() if isinstance(m, MixtureLinear)]
        self.seen.append(torch.cat([g.flatten() for g in routers]).clone())


def nothing(outputs, labels, num_items_in_batch=None):
    """A loss that teaches nothing."""
    return outputs.logits.sum() * 0.0


def router_gradients(folder, callbacks=(), balance=0.5, **options):
    torch.manual_seed(0)
    watch = Gradients()
    options = {"max_steps": 1, "max_grad_norm": 0.0, **options}
    trainer(folder, mixed(balance=balance), [watch, *callbacks], **options).train()
    return watch.seen[0]


# ---- the balance loss


@pytest.mark.parametrize("how", ["labels", "label smoothing", "compute_loss_func"])
def test_the_balance_loss_arrives_whoever_computes_the_loss(tmp_path, how):
    options = {"label_smoothing_factor": 0.1} if how == "label smoothing" else {}
    if how == "compute_loss_func":
        options["compute_loss_func"] = lambda out, labels, num_items_in_batch=None: F.cross_entropy(out.logits, labels)
    with_it, without = (router_gradients(tmp_path, balance=b, **options) for b in (0.5, 0))
    alone = router_gradients(tmp_path, compute_loss_func=nothing)
    assert alone.norm() > 1
    torch.testing.assert_close(with_it - without, alone, rtol=1e-3, atol=1e-5)


def test_training_balances_the_experts(tmp_path):
    model = mixed(balance=0.1, dense_latency=1.0, shift_latency=3.0)
    run = trainer(tmp_path, model, [ExpertShares()], max_steps=120, logging_strategy="steps", logging_steps=60)
    run.train()
    first, last = ([entry for entry in run.state.log_history if "dense_share" in entry][i] for i in (0, -1))
    assert last["dense_share_min"] <= last["dense_share"] <= last["dense_share_max"]
    assert abs(last["dense_share"] - 0.75) < 0.06
    assert last["step"] == 120 > first["step"]
    shares = expert_shares(model)
    assert len(shares) == 4
    assert sum(dense for dense, _ in shares.values()) / 4 == pytest.approx(last["dense_share"])


def test_accumulation_keeps_the_balance_loss_in_proportion(tmp_path):
    """Two micro-batches count as much as one that is twice as large: the callback halves each."""
    same = {"compute_loss_func": nothing}
    halves = {"gradient_accumulation_steps": 2, **same}
    kept, twice = router_gradients(tmp_path, [ExpertShares()], **halves), router_gradients(tmp_path, **halves)
    torch.testing.assert_close(twice, 2 * kept)
    one = router_gradients(tmp_path, per_device_train_batch_size=16, **same)
    assert 0.5 < kept.norm() / one.norm() < 2


def test_a_loss_scaler_is_followed():
    class Scaled:
        class scaler:  # noqa: N801
            get_scale = staticmethod(lambda: 1024.0)

    model = mixed()
    args = TrainingArguments(output_dir="unused", use_cpu=True, report_to="none", gradient_accumulation_steps=4)
    ExpertShares().on_step_begin(args, None, None, model=model, optimizer=Scaled())
    scales = {m.balance_scale for m in model.modules() if isinstance(m, MixtureLinear)}
    assert scales == {256.0}
    ExpertShares().on_train_end(args, None, None, model=model)
    assert {m.balance_scale for m in model.modules() if isinstance(m, MixtureLinear)} == {1.0}


def test_activation_checkpointing_does_not_double_it(tmp_path):
    options = {"compute_loss_func": nothing}
    plain = router_gradients(tmp_path, **options)
    torch.testing.assert_close(router_gradients(tmp_path, activation_checkpointing=True, **options), plain)


def test_mixtures_with_their_shares_and_normalised_adders_come_back_from_disk(tmp_path):
    model = tiny([rule(role="mlp.*", op=MixtureSpec()), rule(role="attn.q", op=AdderSpec(norm=True))])
    trainer(tmp_path / "run", model, optimizer=make_optimizer(model, 1e-3)).train()
    model.eval()
    batch = torch.stack([example["input_ids"] for example in examples()])
    with torch.no_grad():
        logits, shares = model(batch).logits, expert_shares(model)
        for name in ("latent", "packed"):
            save(model, tmp_path / name)
            again = load(tmp_path / name)
            assert torch.equal(again(batch).logits, logits)
            assert expert_shares(again) == shares
            pack_(model)
    assert shares["bert.encoder.layer.0.intermediate.dense"] != MixtureSpec().target_shares


# ---- dead features


def kill_half(model):
    """The first feed-forward loses every second feature: its activation then answers a constant."""
    layer = model.bert.encoder.layer[0].intermediate.dense
    with torch.no_grad():
        layer.weight[::2] = 0
        layer.bias[::2] = -1.0
    return model


def test_dead_features_are_logged_and_warned_of(tmp_path):
    model = kill_half(tiny([rule(role="mlp.up", op=ShiftSpec())]))
    options = {"logging_strategy": "steps", "logging_steps": 2, "eval_strategy": "steps", "eval_steps": 4}
    run = trainer(tmp_path, model, [DeadFeatures(0.4), FreezeOperators({"shift": 0.0})], **options)
    with pytest.warns(UserWarning, match="50% of the features of bert.encoder.layer.0.intermediate.*AdderSpec"):
        run.train()
    logged = {entry["step"]: entry for entry in run.state.log_history if "loss" in entry}
    assert [logged[step]["dead_features_worst"] for step in (2, 4)] == [0.5, 0.5]
    assert 0.2 <= logged[4]["dead_features"] <= 0.3
    evaluated = [entry for entry in run.state.log_history if "eval_loss" in entry]
    assert [entry["eval_dead_features_worst"] for entry in evaluated] == [0.5]
    assert not any(module._forward_hooks for module in model.modules() if isinstance(module, LatentModule | nn.GELU))


def test_dead_features_by_epoch_of_a_healthy_model(tmp_path):
    model = tiny([rule(role="mlp.up", op=AdderSpec(norm=True))])
    run = trainer(tmp_path, model, [DeadFeatures()], logging_strategy="epoch", max_steps=-1, num_train_epochs=2)
    run.train()
    shares = [entry["dead_features"] for entry in run.state.log_history if "loss" in entry]
    assert len(shares) == 2
    assert max(shares) < 0.05


def test_a_threshold_is_a_share():
    with pytest.raises(ValueError, match="0 to 1"):
        DeadFeatures(threshold=50)


# ---- frozen weights


def operators():
    return tiny(
        [
            rule(role="mlp.up", op=ShiftSpec()),
            rule(role="mlp.down", op=ShiftAddSpec()),
            rule(role="attn.q", op=ShiftSpec(parametrization="denseshift")),
            rule(role="attn.k", op=AdderSpec()),
        ]
    )


def moved(one, other):
    return {
        name for (name, p), q in zip(one.named_parameters(), other.parameters(), strict=True) if not torch.equal(p, q)
    }


def test_frozen_from_the_start_only_the_weights_of_the_kind_stay(tmp_path):
    model = operators()
    start = copy.deepcopy(model)
    optimizer = make_optimizer(model, 1e-3, weight_decay=0.1)
    trainer(tmp_path, model, [FreezeOperators({"shift": 0.0, "shift_add": 0.0})], optimizer=optimizer).train()
    still = {name for name, _ in model.named_parameters()} - moved(start, model)
    layers = ["bert.encoder.layer.0", "bert.encoder.layer.1"]
    names = ["intermediate.dense.weight", "output.dense.weight"]
    names += ["attention.self.query.shift", "attention.self.query.sign"]
    assert {f"{layer}.{name}" for layer in layers for name in names} <= still
    assert not [name for name in still if "adder_weight" in name or "key.weight" in name]
    assert not [name for name in still if name.endswith("intermediate.dense.bias")]
    assert all(parameter.requires_grad for parameter in model.parameters())


class Snapshots(TrainerCallback):
    def __init__(self):
        self.weights = []

    def on_step_end(self, args, state, control, model, **_):
        self.weights.append(model.bert.encoder.layer[0].intermediate.dense.weight.detach().clone())


def test_freezes_at_its_fraction_of_the_training_with_momentum_and_all(tmp_path):
    watch = Snapshots()
    trainer(tmp_path, operators(), [FreezeOperators({"shift": 0.5}), watch], max_steps=6).train()
    changes = [not torch.equal(a, b) for a, b in zip(watch.weights, watch.weights[1:], strict=False)]
    assert changes == [True, True, False, False, False]


@pytest.mark.parametrize("stop_at", [2, 4])
def test_a_resumed_run_freezes_as_an_uninterrupted_one(tmp_path, stop_at):
    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            control.should_training_stop = state.global_step == stop_at

    options = {"max_steps": 6, "save_strategy": "steps", "save_steps": 2}
    whole = operators()
    trainer(tmp_path / "whole", whole, [FreezeOperators({"shift": 0.5})], **options).train()
    trainer(tmp_path / "parts", operators(), [FreezeOperators({"shift": 0.5}), Stop()], **options).train()
    resumed = operators()
    run = trainer(tmp_path / "parts", resumed, [FreezeOperators({"shift": 0.5})], **options)
    run.train(resume_from_checkpoint=True)
    assert not moved(whole, resumed)


@pytest.mark.parametrize(
    ("after", "said"), [({"shfit": 0.5}, "nearest: 'shift'"), ({"dense": 0.5}, "'dense'"), ({"adder": 2}, "0 to 1")]
)
def test_impossible_plans_to_freeze_are_refused(after, said):
    with pytest.raises(ValueError, match=said):
        FreezeOperators(after)
