"""Widths, heads and depths are decisions like operators."""

from __future__ import annotations

import copy
import itertools
import random
from collections import Counter

import pytest
from hf.families import BY_NAME
from torch import nn

import search
import shiftadd_transformers as sat
from search import CostTable, SizeDecision, Space, choose, depth, heads, measure_costs, same, widths
from shiftadd_transformers.cost import count_ops

MIXER = sat.MixerSpec(kernel_size=3)
HALF = sat.MixerSpec("shift_add", attention=True, kernel_size=3)


def small():
    """Depths of two stacks, decisions about one layer and across layers, and a limit."""
    return Space.of(
        BY_NAME["marian"].build(),
        [
            choose(["softmax", MIXER], "encoder.*", role="attn.self"),
            choose(["dense", "shift"], "encoder.*", role="attn.[qk]", together="layer"),
            choose(["shift", "dense"], "decoder.*", role="mlp.*", together="all"),
            widths([16, 24], "encoder.*"),
            heads([1, 2], "decoder.*", role="attn.cross", together="all"),
            depth([2, 1], "model.encoder.layers"),
            depth([1, 2], "model.decoder.layers"),
        ],
        [search.at_most("shift", 2)],
    )


def test_the_count_is_that_of_different_plans():
    space = small()
    raw = itertools.product(*(range(len(d.values)) for d in space.decisions))
    within = {space.canonical(c) for c in raw if not space.violations(c)}
    every = list(space.every())
    assert space.count() == len(every) == len(set(every))
    assert set(every) == within
    assert len({space.to_plan(c).to_json() for c in every}) == len(every)
    assert all(space.from_plan(space.to_plan(c)) == c for c in every)


def test_samples_are_uniform_and_moves_stay_inside():
    space, rng = small(), random.Random(0)
    inside = set(space.every())
    drawn = Counter(space.sample(rng) for _ in range(5 * space.count()))
    assert set(drawn) <= inside
    deviation = sum((drawn[c] - 5) ** 2 / 5 for c in inside)
    assert deviation < space.count() + 5 * (2 * space.count()) ** 0.5  # chi squared, five deviations
    for _ in range(20):
        a, b = space.sample(rng), space.sample(rng)
        assert {space.mutate(a, rng), space.crossover(a, b, rng), *space.neighbours(a)} <= inside
    raw = itertools.product(*(range(len(d.values)) for d in space.decisions))
    assert all(space.repair(c) in inside for c in raw)


def test_what_is_left_out_is_not_searched():
    model = BY_NAME["vit"].build()
    space = Space.of(model, [choose(["dense", "shift"], role="mlp.*", together="layer"), depth([1, 2])])
    assert space.count() == 2 + 4
    assert space.canonical((1, 1, 0)) == (1, 0, 0)
    assert space.to_plan((1, 1, 0)) == space.to_plan((1, 0, 0))
    assert space.to_plan((1, 1, 0)).sizes == {"vit.layers": 1}


def test_a_reader_in_a_layer_that_is_left_out_does_not_count():
    """Queries and keys of both layers are one decision; with the second layer left out, the first core decides."""
    space = Space.of(
        BY_NAME["vit"].build(),
        [
            choose(["softmax", MIXER], "re:.*layers.0.*", role="attn.self"),
            choose(["dense", "shift"], role="attn.[qk]", together="all"),
            depth([1, 2]),
        ],
    )
    assert space.count() == 3 + 4
    assert space.canonical((1, 1, 0)) == (1, 0, 0)
    assert space.canonical((1, 1, 1)) == (1, 1, 1)


def test_a_space_with_sizes_survives_json():
    space = small()
    again = Space.from_json(space.to_json())
    assert again == space
    assert again.count() == space.count()
    assert "extents" not in Space.of(nn.Sequential(nn.Linear(2, 2)), [choose(["dense", "shift"], "*")]).to_dict()


def test_the_dense_reference_is_the_whole_model():
    space = small()
    plan = space.to_plan(space.uniform("dense"))
    assert not plan.sizes
    assert not plan.converted
    assert not space.settings(space.uniform("dense"))


def test_references_are_as_large_as_the_model_and_as_small_as_possible():
    space = small()
    points = space.reference_points()
    assert [kind for kind in points if kind.endswith("smallest")] == [
        "dense, smallest",
        "mixer, smallest",
        "shift, smallest",
    ]
    sizes = space.to_plan(points["dense, smallest"]).sizes
    assert sizes.pop("model.decoder.layers.0.encoder_attn") == 1
    assert sizes == {"model.encoder.layers.0.fc1": 16, "model.encoder.layers": 1, "model.decoder.layers": 1}


def test_sizes_are_written_as_dictionaries_too():
    model = BY_NAME["marian"].build()
    written = [widths([16, 24], together="all"), heads([1, 2], role="attn.self"), depth([1, 2], "model.decoder.layers")]
    as_data = [
        {"widths": [16, 24], "together": "all"},
        {"heads": [1, 2], "role": "attn.self"},
        {"depth": [1, 2], "match": "model.decoder.layers"},
    ]
    assert Space.of(model, as_data) == Space.of(model, written)
    assert Space.of(model, [sizes.to_dict() for sizes in written]) == Space.of(model, written)
    assert [d.name for d in Space.of(model, written).decisions] == [
        "mlp.*:width",
        *(f"model.{part}.layers.{layer}.self_attn:heads" for part in ("encoder", "decoder") for layer in (0, 1)),
        "model.decoder.layers:depth",
    ]


def test_sizes_can_be_the_same():
    space = Space.of(BY_NAME["marian"].build(), [widths([16, 24])], [same("*encoder*:width"), same("*decoder*:width")])
    assert [len(d.extents) for d in space.decisions if isinstance(d, SizeDecision)] == [2, 2]
    assert set(space.to_plan((0, 1)).sizes) == {f"model.encoder.layers.{layer}.fc1" for layer in (0, 1)}


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (widths([16, 32]), r"vocabulary 1 \(width of role='mlp.\*'\).*fc1: 32 is no possible width; 1 to 24 can stay"),
        (widths([8, 16]), "the largest size must be the model's own, and .*fc1 has 24; add 24"),
        (widths([24], "*.fc3"), "fits nothing; nearest"),
        (heads([1, 2], role="attn.slef"), "fits nothing"),
        (depth([1, 2], "*.decodr.layers"), "fits nothing; nearest: 'model.decoder.layers'"),
        ({"widths": [24], "mtach": "*"}, "a vocabulary of widths has no key 'mtach'; nearest: 'match'"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(written, message):
    with pytest.raises(ValueError, match=message):
        Space.of(BY_NAME["marian"].build(), [written])


def test_half_of_one_head_is_refused():
    with pytest.raises(ValueError, match="cannot be halved by mixer"):
        Space.of(BY_NAME["vit"].build(), [choose(["softmax", HALF], role="attn.self"), heads([1, 2])])


def test_heads_that_cannot_be_fewer_are_refused():
    with pytest.raises(ValueError, match="cannot be smaller: it has a position bias per head"):
        Space.of(BY_NAME["t5"].build(), [heads([1, 2])])


def test_a_decision_is_made_once():
    with pytest.raises(ValueError, match=r"vocabulary 2 .*an earlier vocabulary decides"):
        Space.of(BY_NAME["vit"].build(), [widths([24, 16]), widths([24, 8])])


def test_a_plan_outside_of_the_space_is_named():
    model = BY_NAME["marian"].build()
    space = small()
    for sizes, message in [
        ({"*.fc1": 8}, "encoder.layers.0:width is 8 in the plan; the space offers 16, 24"),
        ({"model.decoder.layers.0.self_attn": 1}, "the first 1 of .*self_attn, which the space leaves as it is"),
    ]:
        rules = [sat.rule("decoder.*", op="shift", role="mlp.*")]
        wanted = {"model.encoder.*.fc1": 8} if "*.fc1" in sizes else sizes
        with pytest.raises(ValueError, match=message):
            space.from_plan(sat.make_plan(model, rules, sizes=wanted))


@pytest.mark.parametrize("name", ["marian", "vit"])
def test_costs_are_those_of_the_smaller_packed_model(name):
    family = BY_NAME[name]
    model = family.build()
    space = Space.of(
        model,
        [
            choose(["softmax", sat.BinaryLinearSpec(form="quadratic"), MIXER], role="attn.self", together="all"),
            choose(["dense", "shift"], role="attn.*", together="layer"),
            choose(["dense", "adder"], role="mlp.*", together="layer"),
            widths([12, 24]),
            heads([1, 2], role="attn.self"),
            depth([1, 2]),
        ],
    )
    costs = measure_costs(space, model, family.inputs(), checks=1)
    assert isinstance(costs, CostTable)
    rng = random.Random(name)
    for _ in range(4):
        plan = space.to_plan(space.sample(rng))
        packed = sat.pack_(sat.convert_(copy.deepcopy(model), plan))
        report, row = count_ops(packed, **family.inputs()), costs.work(plan).row
        assert row.operations == report.total.operations
        assert (row.weight_bytes, row.activation_bytes) == (report.total.weight_bytes, report.total.activation_bytes)
        stored = {t.data_ptr(): t.numel() * t.element_size() for t in packed.state_dict().values()}
        if name == "vit":  # no computed position tables, which checkpoints leave out
            assert costs.work(plan).stored_bytes == sum(stored.values())


def test_the_space_for_translation_has_the_sizes_of_its_paper():
    family = BY_NAME["marian"]
    options = {**family.options, "encoder_attention_heads": 4, "decoder_attention_heads": 4, "decoder_ffn_dim": 12}
    model = family.head(family.config(**options))
    space = search.presets.translation(model, sizes=True)
    offered = {d.name: d.values for d in space.decisions if isinstance(d, SizeDecision)}
    assert offered["model.encoder.layers.0:width"] == (8, 16, 24)
    assert offered["model.decoder.layers.1:width"] == (4, 8, 12)
    assert offered["model.decoder.layers.0.encoder_attn:heads"] == (2, 4)
    assert offered["model.decoder.layers:depth"] == (1, 2)
    assert "model.encoder.layers:depth" not in offered
    assert family.output(sat.convert_(model, space.to_plan(space.sample(random.Random(0))))).isfinite().all()
