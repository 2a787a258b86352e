"""Smaller models: a plan's sizes leave the leading part of the dense model, saved and loaded as any."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from hf.families import BY_NAME, FAMILIES
from torch import nn
from torch.nn import functional as F

import shiftadd_transformers as sat
from shiftadd_transformers.extents import extents
from shiftadd_transformers.plan import Plan

DEEP = {
    "marian": {"encoder_layers": 3, "decoder_layers": 3},
    "llama": {"num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4},
    "gpt2": {"n_layer": 3},
}

ALIKE = ("deit", "bert-mlm", "roberta", "bart", "mistral", "qwen2", "gemma")  # as others are, for what is tested here


def built(name):
    family = BY_NAME[name]
    return replace(family, options={**family.options, **DEEP.get(name, {})}).build()


def smallest(model, width=12):
    """As small as the model can be; feed-forwards of different widths."""
    least = {"depth": 1, "width": width}
    found = extents(model)[0].values()
    return {e.name: least.get(e.kind, e.step) + (e.kind == "width") * 4 * n for n, e in enumerate(found)}


def slimmed(model, rules=(), **sizes):
    return sat.convert_(model, sat.make_plan(model, list(rules), sizes=sizes))


@pytest.mark.parametrize(
    ("name", "state"),
    [
        *((family.name, "packed") for family in FAMILIES if family.name not in ALIKE),
        *((name, state) for name in ("vit", "marian") for state in ("dense", "latent")),
    ],
)
def test_a_smaller_model_is_saved_and_loaded(name, state, tmp_path):
    family = BY_NAME[name]
    model = family.build()
    dense = sum(p.numel() for p in model.parameters())
    rules = [] if state == "dense" else [sat.rule(role="mlp.*", op="shift"), sat.rule(role="attn.*", op="adder")]
    slimmed(model, rules, **smallest(model))
    assert sum(p.numel() for p in model.parameters()) < dense
    if state == "packed":
        sat.pack_(model)
    before = family.output(model)
    assert before.isfinite().all()
    model.save_pretrained(tmp_path)
    again, report = family.head.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    assert torch.equal(family.output(again.eval()), before)
    plan = again.config.quantization_config.plan
    assert plan.sizes == model.config.quantization_config.plan.sizes
    assert type(again.config).from_pretrained(tmp_path).num_hidden_layers == model.config.num_hidden_layers


def test_the_leading_part_stays():
    model = nn.ModuleDict({"fc1": nn.Linear(4, 8), "fc2": nn.Linear(8, 4)})
    x = torch.randn(3, 4)
    wanted = F.linear(F.linear(x, model["fc1"].weight[:6], model["fc1"].bias[:6]), model["fc2"].weight[:, :6])
    wanted = wanted + model["fc2"].bias
    slimmed(model, fc1=6)
    torch.testing.assert_close(model["fc2"](model["fc1"](x)), wanted)


def test_leading_heads_stay():
    """Zeros in the output projection's last columns leave the last head without effect as well."""
    family = BY_NAME["vit"]
    model, masked = family.build(), family.build()
    for layer in masked.vit.layers:
        with torch.no_grad():
            layer.attention.o_proj.weight[:, 8:] = 0
    slimmed(model, attention=1)
    assert model.vit.layers[0].attention.q_proj.weight.shape == (8, 16)
    torch.testing.assert_close(family.output(model), family.output(masked))


def test_leading_layers_stay_and_the_config_says_so():
    model = built("marian")
    kept = model.model.decoder.layers[0]
    slimmed(model, **{"model.decoder.layers": 1, "model.encoder.*.fc1": 16})
    assert list(model.model.decoder.layers) == [kept]
    assert (model.config.decoder_layers, model.config.encoder_layers) == (1, 3)
    assert (model.config.encoder_ffn_dim, model.config.decoder_ffn_dim) == (16, 24)


def test_what_a_config_cannot_say_is_in_the_plan():
    model = built("llama")
    slimmed(model, **{"model.layers.0.mlp.up_proj": 16, "model.layers.1.self_attn": 2})
    assert (model.config.intermediate_size, model.config.num_attention_heads) == (24, 4)
    assert model.config.quantization_config.plan.sizes == {
        "model.layers.0.mlp.up_proj": 16,
        "model.layers.1.self_attn": 2,
    }
    assert model.model.layers[1].self_attn.k_proj.out_features == 4  # half of the groups, as of the queries


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("marian", {"model.encoder.layers": 1, "*.fc1": 16}),
        ("marian", {"model.decoder.layers": 1, "*.self_attn": 1, "*.encoder_attn": 1}),
        ("t5", {"decoder.block": 1, "*.wi": 16}),
        ("whisper", {"model.encoder.layers": 1, "*.encoder_attn": 1}),
        ("llama", {"model.layers": 2, "*.self_attn": 2, "*.up_proj": 16}),
        ("gemma3", {"model.layers": 1, "*.up_proj": 16}),
        ("gpt2", {"transformer.h": 2, "*.c_fc": 16}),
        ("opt", {"*.layers": 1, "*.self_attn": 1}),
    ],
)
def test_generation_with_a_cache_is_that_without(name, sizes):
    model, family = built(name), BY_NAME[name]
    rules = [sat.rule(role="mlp.*", op="shift")]
    if name in ("marian", "opt"):
        rules.append(sat.rule(role="attn.self", op=sat.AdderAttentionSpec()))
    sat.pack_(slimmed(model, rules, **sizes))
    inputs = {k: v for k, v in family.inputs().items() if not k.startswith("decoder")}
    options = {"max_new_tokens": 5, "do_sample": False, "num_beams": 2}
    with_cache, without = (model.generate(**inputs, **options, use_cache=cache) for cache in (True, False))
    assert torch.equal(with_cache, without)


def test_attentions_know_how_many_heads_they_have_left():
    """Cores, which are as large as their attention, would not fit otherwise; half of one head neither."""
    family = BY_NAME["vit"]
    core = sat.rule(role="attn.self", op=sat.BinaryLinearSpec(kernel_size=3))
    model = slimmed(family.build(), [core], attention=1)
    assert model.vit.layers[1].attention.core.taps.shape == (1, 3)
    assert family.output(model).isfinite().all()
    half = sat.rule(role="attn.self", op=sat.MixerSpec(attention=True, kernel_size=3))
    whole = family.build()
    with pytest.raises(ValueError, match="half of the heads attend"):
        slimmed(whole, [half], attention=1)
    assert whole.vit.layers[0].attention.q_proj.weight.shape == (16, 16)


def test_a_model_becomes_smaller_in_stages(tmp_path):
    family = BY_NAME["marian"]
    model = built("marian")
    slimmed(model, [sat.rule("model.decoder.*.fc1", "shift")], **{"model.encoder.layers": 2})
    slimmed(model, [sat.rule("*.fc2", "shift")], **{"model.decoder.layers": 2, "model.encoder.*.fc1": 16})
    plan = model.config.quantization_config.plan
    assert plan.sizes["model.encoder.layers"] == plan.sizes["model.decoder.layers"] == 2
    assert {name.rpartition(".")[2] for name in plan.converted} == {"fc1", "fc2"}
    assert not any("decoder.layers.2" in name for name in plan.entries)
    model.save_pretrained(tmp_path)
    again, report = family.head.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    assert torch.equal(family.output(again.eval()), family.output(model))


@pytest.mark.parametrize("how", ["revert", "dequantize", "load"])
def test_a_reverted_model_is_as_small(how, tmp_path):
    family = BY_NAME["vit"]
    model = slimmed(family.build(), [sat.rule(role="mlp.*", op="shift")], fc1=16, attention=1)
    before = family.output(sat.pack_(model))
    if how == "revert":
        sat.revert_(model)
    elif how == "dequantize":
        model.dequantize()
    else:
        sat.save(model, tmp_path / "packed")
        model = sat.load(tmp_path / "packed", dequantize=True)
    torch.testing.assert_close(family.output(model), before)
    assert type(model.vit.layers[0].mlp.fc1) is nn.Linear
    sat.save(model, tmp_path / "dense")
    torch.testing.assert_close(family.output(sat.load(tmp_path / "dense")), before)


def test_a_dense_checkpoint_becomes_smaller_on_loading(tmp_path):
    family = BY_NAME["marian"]
    model = built("marian")
    model.save_pretrained(tmp_path)
    plan = sat.make_plan(model, [sat.rule(role="mlp.*", op="shift")], sizes={"*.fc1": 16, "model.decoder.layers": 1})
    loaded = family.head.from_pretrained(tmp_path, quantization_config=sat.ShiftAddConfig(plan=plan, state="packed"))
    assert loaded.config.decoder_layers == 1
    torch.testing.assert_close(family.output(loaded.eval()), family.output(sat.pack_(sat.convert_(model, plan))))


def test_a_plan_says_sizes():
    model = built("marian")
    plan = sat.make_plan(model, [sat.rule(role="mlp.*", op="shift")], sizes={"model.decoder.layers": 2, "*.0.fc1": 16})
    assert plan.entries["model.encoder.layers.0.fc2"].shape == (16, 16)
    assert not any(name.startswith("model.decoder.layers.2") for name in plan.entries)
    assert "model.decoder.layers  " in plan.table()
    assert "1 × first 2 of layers; 2 × first 16 of fc1" in plan.summary()
    again = Plan.from_json(plan.to_json())
    assert again == plan
    whole = sat.make_plan(model, [sat.rule(role="mlp.*", op="shift")])
    assert "model.decoder.layers whole → first 2" in " ".join(whole.diff(plan).split())
    assert plan.diff(again) == ""


@pytest.mark.parametrize("sizes", [["*.fc1"], {"*.fc1": "16"}, {"*.fc1": 0}, {"*.fc1": True}])
def test_other_sizes_are_refused(sizes):
    with pytest.raises(ValueError, match="sizes are names with whole numbers"):
        Plan.from_dict({"format_version": 1, "sizes": sizes})


def test_a_plan_without_sizes_is_written_as_ever():
    plan = sat.make_plan(built("marian"), [], sizes={"*.fc1": 24, "model.decoder.layers": 3})
    assert json.loads(plan.to_json()).keys() == {"format_version", "model", "modules"}


def test_rules_meet_what_is_left():
    plan = sat.make_plan(built("marian"), [sat.rule("*.fc1", "shift", layers=-1)], sizes={"model.decoder.layers": 2})
    assert list(plan.converted) == ["model.encoder.layers.2.fc1", "model.decoder.layers.1.fc1"]


@pytest.mark.parametrize(
    ("name", "sizes", "message"),
    [
        ("marian", {"model.decodr.layers": 1}, "fits no width, heads or depth of MarianMTModel; nearest"),
        ("marian", {"*.fc1": 32}, "fc1: 32 is no possible width; 1 to 24 can stay"),
        ("marian", {"*.layers": 0}, "layers: 0 is no possible depth"),
        ("llama", {"*.self_attn": 3}, "3 is no possible heads; 1 to 4 can stay, in steps of 2"),
        ("gpt2", {"*.attn": 1}, "cannot be smaller: its queries, keys and values are not three separate"),
        ("phi3", {"*.gate_up_proj": 8}, "cannot be smaller: gate and up projection are one layer"),
        ("t5", {"*.SelfAttention": 1}, "cannot be smaller: it has a position bias per head"),
        ("swin", {"*.attention": 1}, "cannot be smaller: it has a position bias per head"),
        ("swin", {"swin.encoder.layers": 1}, "cannot be smaller: its layers are of different kinds or widths"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(name, sizes, message):
    with pytest.raises(ValueError, match=message):
        sat.make_plan(built(name), [], sizes=sizes)


def test_a_plan_for_another_size_leaves_the_model_whole():
    model = built("marian")
    plan = sat.make_plan(model, [sat.rule(role="mlp.*", op="shift")], sizes={"*.fc1": 16})
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match="the plan expects model"):
        sat.convert_(model, replace(plan, sizes={"*.fc1": 8}))
    broken = model.model.decoder.layers[2].fc1.weight
    with torch.no_grad():
        broken[0, 0] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        sat.convert_(model, plan)
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(after[name].shape == tensor.shape for name, tensor in before.items())
    assert model.config.decoder_ffn_dim == 24


def test_what_is_converted_cannot_be_cut_any_more():
    model = built("marian")
    sat.convert_(model, [sat.rule("*.fc1", "shift")])
    with pytest.raises(ValueError, match="not alone between one layer before and one behind"):
        sat.make_plan(model, [], sizes={"*.fc2": 16})
