"""A plan is the decision for every dense layer of one model, and says clearly when rules do not fit."""

from __future__ import annotations

import json

import pytest
from hf.families import BY_NAME, FAMILIES
from torch import nn

from shiftadd_transformers import AdderSpec, DenseSpec, Plan, ShiftSpec, make_plan, rule
from shiftadd_transformers.plan import Entry, resolve


def small():
    return nn.ModuleDict({"fc1": nn.Linear(8, 16), "fc2": nn.Linear(16, 8), "lm_head": nn.Linear(8, 9)})


def test_the_first_rule_that_matches_wins():
    model = BY_NAME["marian"].build()
    plan = make_plan(model, [rule("*.encoder.*.fc1", "bcq"), rule(role="mlp.*", op="shift"), rule("*", "adder")])
    kinds = {name: entry.spec.kind for name, entry in plan.entries.items()}
    assert kinds["model.encoder.layers.0.fc1"] == "bcq"
    assert kinds["model.decoder.layers.0.fc1"] == "shift"
    assert kinds["model.decoder.layers.0.encoder_attn.q_proj"] == "adder"
    assert kinds["lm_head"] == "dense"


def test_names_every_dense_layer_in_module_order():
    model = BY_NAME["gpt2"].build()
    plan = make_plan(model, [{"role": "mlp.*", "op": "shift"}])
    assert list(plan.entries) == [
        f"transformer.h.{i}.{name}" for i in (0, 1) for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    ] + ["lm_head"]
    assert plan.model == "GPT2LMHeadModel"
    assert plan.entries["transformer.h.0.mlp.c_fc"].shape == (24, 16)
    assert plan.entries["transformer.h.0.attn.c_attn"].reason == "no rule"


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
def test_heads_and_tied_layers_are_protected(family):
    model = family.build()
    plan = make_plan(model, [rule("*", "shift")])
    outside = {name: entry for name, entry in plan.entries.items() if name not in plan.converted}
    assert outside
    assert {entry.role for entry in outside.values()} == {"head"}
    tied = bool(set(model.all_tied_weights_keys) & {f"{name}.weight" for name in outside})
    reasons = {entry.reason for entry in outside.values()}
    assert ("protected: tied" in reasons) == tied
    assert reasons <= {"protected: tied", "protected: head"}


def test_heads_convert_when_asked_but_tied_ones_never():
    untied = make_plan(BY_NAME["bert"].build(), [rule("*", "shift")], protect=False)
    assert all(isinstance(entry.spec, ShiftSpec) for entry in untied.entries.values())
    tied = make_plan(BY_NAME["marian"].build(), [rule("*", "shift")], protect=False)
    assert tied.entries["lm_head"] == Entry(DenseSpec(), "head", (60, 16), "protected: tied")


def test_a_rule_for_protected_layers_only_is_refused():
    with pytest.raises(ValueError, match=r"rule 2 \(role='head'\) selects protected layers only: lm_head \(tied\)"):
        make_plan(BY_NAME["marian"].build(), [rule("*.fc1", "shift"), rule(role="head", op="shift")])
    with pytest.raises(ValueError, match="protect=False"):
        make_plan(small(), [rule("lm_head", "shift")])
    assert make_plan(small(), [rule("lm_head", "dense"), rule("*", "shift")]).entries["lm_head"].reason == ""


@pytest.mark.parametrize(
    ("selector", "said"),
    [
        (
            {"match": "*.fc3"},
            r"rule 1 \(match='\*.fc3'\) matched no dense layer of MarianMTModel; nearest: '\*.fc[12]'",
        ),
        ({"match": "model.encodr.layers.0.fc1"}, "nearest: 'model.encoder.layers.0.fc1'"),
        ({"role": "mpl.up"}, "nearest: 'mlp.up'"),
        ({"role": "attn.qkv"}, "nearest: 'attn.[qkv]'"),
        ({"match": "*.fc1", "layers": "5"}, r"layers there are: model.encoder.layers 0..1, model.decoder.layers 0..1"),
        ({"match": "lm_head", "layers": "0"}, "layers there are"),
    ],
    ids=str,
)
def test_a_rule_that_selects_nothing_is_refused_with_a_proposal(selector, said):
    with pytest.raises(ValueError, match=said):
        make_plan(BY_NAME["marian"].build(), [rule(op="shift", **selector)])


def test_no_rules_and_no_layers():
    assert make_plan(small(), []).converted == {}
    with pytest.raises(ValueError, match="LayerNorm has no dense layer"):
        make_plan(nn.LayerNorm(4), [rule("*", "shift")])


def test_table():
    table = make_plan(small(), [rule("fc1", ShiftSpec(bits=3))]).table().splitlines()
    assert table == [
        "module   role      N × K   operator",
        "fc1      mlp.up    16 × 8  shift(bits=3)",
        "fc2      mlp.down  8 × 16  dense          no rule",
        "lm_head  head      9 × 8   dense          protected: head",
        "shift: 1 modules, 39% of weights; dense: 2 modules, 61% of weights",
    ]


def test_diff():
    one = make_plan(small(), [rule("fc1", ShiftSpec(bits=3))])
    two = make_plan(small(), [rule("*", "adder")])
    assert one.diff(one) == ""
    assert one.diff(two).splitlines() == [
        "fc1  shift(bits=3)  →  adder",
        "fc2  dense          →  adder",
    ]
    other = make_plan(nn.ModuleDict({"fc1": nn.Linear(8, 16), "up": nn.Linear(1, 1)}), [rule("fc1", "adder")])
    assert one.diff(other).splitlines()[-1].split() == ["up", "absent", "→", "dense"]


def test_json_round_trip_keeps_order_and_everything(tmp_path):
    plan = make_plan(BY_NAME["t5"].build(), [rule(role="mlp.*", op=ShiftSpec(5, 2)), rule("*.q", AdderSpec(None))])
    text = plan.to_json()
    assert Plan.from_json(text) == plan
    assert list(Plan.from_json(text).entries) == list(plan.entries)
    path = tmp_path / "plan.json"
    path.write_text(text)
    assert Plan.from_json(path) == plan
    assert json.loads(text)["format_version"] == 1


def test_the_converted_part_is_enough_to_carry_it_out():
    plan = make_plan(small(), [rule("fc1", "shift")])
    assert Plan.from_dict(plan.to_dict(converted_only=True)).converted == plan.converted
    assert list(plan.to_dict(converted_only=True)["modules"]) == ["fc1"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format_version": 99}, "plan format 99 is unknown"),
        ({"format_version": None}, "plan format None"),
        ({"module": {}}, "no key 'module'; nearest: 'modules'"),
        (
            {"modules": {"fc1": {"op": {"kind": "shift"}, "role": "", "shape": [1, 1], "reson": ""}}},
            "nearest: 'reason'",
        ),
        ({"modules": {"fc1": {"op": {"kind": "sift"}, "role": "", "shape": [1, 1]}}}, "fc1: unknown operator 'sift'"),
        ({"modules": {"fc1": {"op": {"kind": "shift"}, "role": ""}}}, "fc1: .*shape"),
        ({"modules": {"fc1": {"op": {"kind": "shift"}, "role": "", "shape": [1]}}}, "fc1: .*shape"),
    ],
    ids=str,
)
def test_a_damaged_plan_is_refused(change, said):
    data = make_plan(small(), [rule("fc1", "shift")]).to_dict() | change
    with pytest.raises(ValueError, match=said):
        Plan.from_dict(data)


def test_text_that_is_no_plan_is_refused():
    with pytest.raises(ValueError, match="not a plan"):
        Plan.from_json("{")
    with pytest.raises(ValueError, match="not a plan"):
        Plan.from_json("[]")


def test_a_plan_of_the_head_model_resolves_in_the_base_model_and_back():
    head, base = BY_NAME["vit"].build(), BY_NAME["vit"].build(base=True)
    rules = [rule(role="mlp.*", op="shift")]
    for plan, model in ((make_plan(head, rules), base), (make_plan(base, rules), head)):
        found = resolve(plan, model)
        assert list(found) == list(plan.converted)
        assert {name for name, _ in found.values()} <= dict(model.named_modules()).keys()
