"""Rules select what a user means: by role on every architecture, by name, by layer."""

from __future__ import annotations

from collections import Counter

import pytest
from hf.families import BY_NAME, FAMILIES
from torch import nn

from shiftadd_transformers.layers import is_dense
from shiftadd_transformers.rules import Rule, layer_indices, rule
from shiftadd_transformers.sites import role_of, sites
from shiftadd_transformers.specs import DenseSpec, ShiftSpec


class Stack(nn.Module):
    """Six encoder and two decoder layers, with a head."""

    base_model_prefix = "model"

    def __init__(self):
        super().__init__()
        self.model = nn.ModuleDict({"encoder": self._layers(6), "decoder": self._layers(2)})
        self.lm_head = nn.Linear(4, 9)

    @staticmethod
    def _layers(count):
        return nn.ModuleList(nn.ModuleDict({"fc1": nn.Linear(4, 8), "fc2": nn.Linear(8, 4)}) for _ in range(count))


def selected(model, **selector):
    return [site.name for site in sites(model) if rule(op="shift", **selector).selects(site)]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
@pytest.mark.parametrize("base", [False, True], ids=["head", "base"])
def test_every_linear_of_every_family_has_its_role(family, base):
    model = family.build(base=base)
    found = [site for site in sites(model) if site.place == "linear"]
    assert [s.name for s in found] == [name for name, m in model.named_modules() if is_dense(m)]
    roles = Counter(site.role for site in found)
    heads = roles.pop("head", 0)
    assert roles == family.roles
    if not base:
        assert heads >= 1


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
def test_every_linear_of_a_layer_knows_its_layer(family):
    for site in sites(family.build()):
        if site.role == "head":
            assert site.layer is None
            assert site.stack == ""
        else:
            assert site.depth == 2
            assert site.layer in (0, 1)
            assert site.name.startswith(f"{site.stack}.{site.layer}.")


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("classifier.out_proj", "head"),
        ("bert.pooler.dense", "head"),
        ("cls.predictions.transform.dense", "head"),
        ("score", "head"),
        ("model.decoder.layers.0.encoder_attn.out_proj", "attn.o"),
        ("encoder.layer.1.attention.self.query", "attn.q"),
        ("encoder.layer.1.attention.output.dense", "attn.o"),
        ("encoder.layer.1.output.dense", "mlp.down"),
        ("transformer.h.0.attn.c_proj", "attn.o"),
        ("transformer.h.0.mlp.c_proj", "mlp.down"),
        ("encoder.layer.0.mlp.weights_in", "mlp.gate_up"),
        ("pvt_v2.encoder.layers.0.blocks.1.mlp.dense1", "mlp.up"),
        ("decoder.block.0.layer.1.EncDecAttention.k", "attn.k"),
        ("swin.encoder.layers.0.downsample.reduction", "other"),
        ("fc1", "mlp.up"),
        ("mlp.fc2", "mlp.down"),
    ],
)
def test_role_of_a_name(name, role):
    assert role_of(name) == role


def test_name_patterns():
    model = Stack()
    fc1 = [name for name in selected(model, match="*") if name.endswith("fc1")]
    assert len(fc1) == 8
    assert selected(model, match="*.fc1") == selected(model, match="fc1") == fc1
    assert selected(model, match="model.decoder.*") == [n for n in selected(model, match="*") if "decoder" in n]
    assert selected(model, match="1.fc2") == ["model.encoder.1.fc2", "model.decoder.1.fc2"]
    assert selected(model, match="re:.*(encoder|decoder)\\.0\\.fc[12]") == selected(model, layers="0")
    assert selected(model, match="FC1") == []


def test_regular_expressions_match_the_whole_name():
    assert selected(Stack(), match="re:fc1") == []
    assert selected(Stack(), match="re:.*encoder.3.fc1") == ["model.encoder.3.fc1"]


@pytest.mark.parametrize("pattern", ["model.encoder.0.*", "encoder.0.*", "re:encoder\\.0\\..*"])
def test_names_read_with_and_without_the_base_prefix(pattern):
    head = BY_NAME["marian"].build()
    base = BY_NAME["marian"].build(base=True)
    pattern = pattern.replace("encoder.0", "encoder.layers.0").replace("encoder\\.0", "encoder\\.layers\\.0")
    assert len(selected(head, match=pattern)) == len(selected(base, match=pattern)) == 6


def test_layers_count_in_each_stack():
    model = Stack()
    last = ["model.encoder.5.fc1", "model.encoder.5.fc2", "model.decoder.1.fc1", "model.decoder.1.fc2"]
    assert selected(model, layers=-1) == last
    assert selected(model, layers="-1", match="*.fc1") == last[::2]
    assert selected(model, layers=[0, -1], match="model.decoder.*", role="mlp.up") == [
        "model.decoder.0.fc1",
        "model.decoder.1.fc1",
    ]
    assert selected(model, layers="4:") == [f"model.encoder.{i}.fc{j}" for i in (4, 5) for j in (1, 2)]


@pytest.mark.parametrize(
    ("text", "depth", "layers"),
    [
        ("0", 6, [0]),
        ("-1", 6, [5]),
        ("0,-1", 6, [0, 5]),
        ("2:-2", 6, [2, 3]),
        (":2", 6, [0, 1]),
        ("-2:", 6, [4, 5]),
        (" 1 , 3 ", 6, [1, 3]),
        ("7", 6, []),
        ("-7", 6, []),
        ("0:2,-1", 1, [0]),
    ],
)
def test_layer_indices(text, depth, layers):
    assert sorted(layer_indices(text, depth)) == layers


@pytest.mark.parametrize("text", ["", "a", "1:2:3", "1-3", "0,,1", "0;1"])
def test_a_range_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match="not a range"):
        rule(op="shift", layers=text)


def test_roles_match_as_patterns():
    model = BY_NAME["llama"].build()
    assert len(selected(model, role="attn.*")) == 8
    assert len(selected(model, role="attn.[qk]")) == 4
    assert len(selected(model, role="mlp.*", layers=0)) == 3
    assert selected(model, role="head") == ["lm_head"]


def test_a_rule_without_selector_or_operator_is_refused():
    with pytest.raises(ValueError, match="needs a selector"):
        Rule(DenseSpec())
    with pytest.raises(ValueError, match="needs an operator"):
        rule("*.fc1")


def test_a_broken_regular_expression_is_refused():
    with pytest.raises(ValueError, match="not a regular expression"):
        rule("re:(", "shift")


@pytest.mark.parametrize(
    "given",
    [
        rule("*.fc1", ShiftSpec(bits=3)),
        rule(role="attn.*", op="adder", layers=[0, -1]),
        rule("re:.*", {"kind": "bcq", "planes": 2}),
    ],
    ids=str,
)
def test_json_round_trip(given):
    assert Rule.from_dict(given.to_dict()) == given


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"mach": "*", "op": "shift"}, "no key 'mach'; nearest: 'match'"),
        ({"match": "*"}, "says no operator"),
        ({"match": "*", "op": "ader"}, "unknown operator 'ader'; nearest: 'adder'"),
        ({"match": "*", "op": {"kind": "shift", "bist": 3}}, "no field 'bist'; nearest: 'bits'"),
    ],
)
def test_typos_are_refused(data, said):
    with pytest.raises(ValueError, match=said):
        Rule.from_dict(data)
