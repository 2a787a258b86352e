"""Spaces of plans: what is in them, how many, and that every move stays inside."""

from __future__ import annotations

import copy
import itertools
import json
import random
from collections import Counter

import pytest
from hf.families import BY_NAME
from hypothesis import given, settings
from hypothesis import strategies as st
from nas.toys import PRESETS, entangled, layers, preset
from torch import nn

import shiftadd_transformers as sat
from search import Decision, Space, at_most, choose, same

SPACES = {
    "layers": lambda: layers(3),
    "entangled": entangled,
    "marian": lambda: preset("marian"),
    "vit": lambda: preset("vit"),
}
SEEDS = st.integers(0, 2**32)


def marian() -> sat.Plan:
    return BY_NAME["marian"].build()


def raw(space: Space) -> list[tuple[int, ...]]:
    return list(itertools.product(*(range(len(d.values)) for d in space.decisions)))


def within(space: Space) -> set[tuple[int, ...]]:
    """The candidates by definition: one for each different plan that the limits allow."""
    return {space.canonical(c) for c in raw(space) if not space.violations(c)}


@pytest.mark.parametrize("name", ["layers", "entangled", "vit"])
def test_the_count_is_that_of_different_plans(name):
    space = SPACES[name]()
    every = list(space.every())
    assert space.count() == len(every) == len(set(every))
    assert set(every) == within(space)
    assert len({space.to_plan(c).to_json() for c in every}) == len(every)


def test_large_counts_are_exact():
    limited = Space.of(
        nn.Sequential(*(nn.Linear(2, 2) for _ in range(60))), [choose(["dense", "shift"], "*")], [at_most("shift", 2)]
    )
    assert limited.count() == 1 + 60 + 60 * 59 // 2
    assert layers(64, 4).count() == 4**64


def test_the_spaces_of_the_papers_have_their_operators():
    space = preset("marian")
    offered = [len(d.values) for d in space.decisions if d.name.endswith("self_attn")]
    assert offered == [7, 7, 4, 4]
    assert space.count() == 7**2 * 4**2 * 2**4
    assert preset("vit").count() == (3 * 2 * 5) ** 2


@pytest.mark.parametrize("name", SPACES)
def test_a_candidate_is_its_plan(name):
    space, rng = SPACES[name](), random.Random(0)
    for _ in range(30):
        candidate = space.sample(rng)
        assert space.from_plan(space.to_plan(candidate)) == candidate


@pytest.mark.parametrize("family", PRESETS)
def test_a_plan_is_what_rules_would_make(family):
    model, space, rng = BY_NAME[family].build(), preset(family), random.Random(1)
    for _ in range(5):
        plan = space.to_plan(space.sample(rng))
        rules = [sat.rule(name, spec) for name, spec in plan.converted.items()]
        made = sat.make_plan(model, rules)
        assert made.diff(plan) == ""
        assert list(made.entries) == list(plan.entries)


@pytest.mark.parametrize("family", PRESETS)
def test_every_candidate_of_a_preset_converts_packs_and_runs(family):
    case, space, rng = BY_NAME[family], preset(family), random.Random(2)
    dense = case.build()
    for candidate in [*space.reference_points().values(), *(space.sample(rng) for _ in range(8))]:
        plan = space.to_plan(candidate)
        packed = sat.pack_(sat.convert_(copy.deepcopy(dense), plan))
        assert case.output(packed).isfinite().all()
        assert sum(e.spec.changes for e in plan.entries.values()) == len(plan.converted)


def test_samples_are_uniform():
    space = entangled()
    drawn = Counter(space.sample(random.Random(seed)) for seed in range(12 * space.count()))
    assert set(drawn) == within(space)
    deviation = sum((times - 12) ** 2 / 12 for times in drawn.values())
    assert deviation < space.count() + 5 * (2 * space.count()) ** 0.5  # chi squared, five deviations


@given(seed=SEEDS, name=st.sampled_from(list(SPACES)), p=st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_moves_stay_in_the_space(seed, name, p):
    space, rng = SPACES[name](), random.Random(seed)
    a, b = space.sample(rng), space.sample(rng)
    for moved in (space.mutate(a, rng, p), space.mutate(a, rng), space.crossover(a, b, rng)):
        assert moved == space.canonical(moved)
        assert not space.violations(moved)
    assert space.mutate(a, rng, 0) == a
    assert space.crossover(a, a, rng) == a


@given(seed=SEEDS)
@settings(max_examples=30, deadline=None)
def test_a_child_has_its_parents_genes(seed):
    space, rng = layers(3, 4), random.Random(seed)
    a, b = space.sample(rng), space.sample(rng)
    assert all(gene in pair for gene, pair in zip(space.crossover(a, b, rng), zip(a, b, strict=True), strict=True))


def test_neighbours_differ_in_one_decision():
    space = layers(3)
    found = space.neighbours((0, 1, 2))
    assert len(found) == len(set(found)) == 6
    assert all(sum(x != y for x, y in zip(n, (0, 1, 2), strict=True)) == 1 for n in found)
    inside = within(entangled())
    assert all(set(entangled().neighbours(c)) <= inside - {c} for c in inside)


def test_repair_keeps_what_it_can():
    space = entangled()
    inside = within(space)
    assert all(space.repair(c) in inside for c in raw(space))
    assert all(space.repair(c) == c for c in inside)


def test_what_a_mixer_does_not_read_is_not_searched_twice():
    space = Space.of(
        marian(),
        [
            choose(["softmax", "mixer"], "encoder.*", role="attn.self", together="all"),
            choose(["dense", "shift"], "encoder.*", role="attn.[qk]", together="all"),
        ],
    )
    assert space.count() == 3  # softmax with both, the mixer once
    assert space.canonical((1, 1)) == (1, 0)
    assert space.to_plan((1, 1)) == space.to_plan((1, 0))


def test_reference_points_are_uniform():
    space = preset("vit")
    points = space.reference_points()
    assert not space.to_plan(points["dense"]).converted
    shifted = space.to_plan(points["shift"]).converted
    assert {spec.kind for spec in shifted.values()} == {"shift"}
    assert len(shifted) == 12
    with pytest.raises(ValueError, match="offers 'shfit'; nearest: 'shift'"):
        space.uniform("shfit")


@pytest.mark.parametrize("name", SPACES)
def test_a_space_survives_json(name):
    space = SPACES[name]()
    again = Space.from_json(space.to_json())
    assert again == space
    assert again.count() == space.count()
    candidate = again.sample(random.Random(3))
    assert json.loads(json.dumps(candidate)) == list(candidate)
    assert again.to_plan(candidate) == space.to_plan(candidate)


def test_other_text_is_no_space():
    with pytest.raises(ValueError, match="not a space of format 1"):
        Space.from_json("{}")


def test_the_same_groups_are_one_decision():
    model = marian()
    words = [choose(["dense", "shift"], role="mlp.*", together="layer")]
    tied = Space.of(model, words, [same("model.encoder.*", "model.decoder.layers.0:*")])
    assert [len(d.sites) for d in tied.decisions] == [6, 2]
    assert len(tied.to_plan((1, 0)).converted) == 6
    with pytest.raises(ValueError, match=r"fits no decision; nearest: 'model.encoder"):
        Space.of(model, words, [same("model.encodr.layers.0:mlp.*")])
    mixed = [choose(["dense", "shift"], role="mlp.up"), choose(["dense", "adder"], role="mlp.down")]
    with pytest.raises(ValueError, match="must offer the same choices"):
        Space.of(model, mixed, [same("*.fc1", "*.fc2")])


def test_decisions_about_something_else_stand_beside():
    model = nn.Sequential(nn.Linear(4, 4))
    space = Space.of(model, [choose(["dense", "shift"], "*")], extra=[Decision("width", (64, 128, 256))])
    assert space.count() == 6
    assert space.settings((1, 2)) == {"width": 256}
    assert Space.from_json(space.to_json()) == space
    assert space.from_plan(space.to_plan((1, 2)), {"width": 256}) == (1, 2)
    with pytest.raises(ValueError, match="width must be one of 64, 128, 256"):
        space.from_plan(space.to_plan((1, 2)))


def test_protected_and_tied_layers_are_left_out():
    space = Space.of(marian(), [choose(["dense", "shift"], "*", together="all")])
    assert "lm_head" not in space.decisions[0].sites
    assert space.to_plan((1,)).entries["lm_head"].reason == "protected: tied"


@pytest.mark.parametrize(
    ("vocabularies", "message"),
    [
        ([choose(["dense", "shift"], "*.fc3")], r"vocabulary 1 \(match='\*.fc3'\) matched no dense layer.*nearest"),
        ([choose(["shift"], "lm_head")], "vocabulary 1 .* selects protected layers only: lm_head"),
        ([choose(["dense", "shift"], "*")] * 2, "vocabulary 2 .*: no module is left"),
        ([choose(["mixer", "shift"], "*")], "no module is left that can take each of mixer, shift"),
        ([choose(["softmax", "mixer"], role="attn.*")], "offers a token mixer to the cross-attention"),
        ([{"match": "*", "chocies": ["shift"]}], "no key 'chocies'; nearest: 'choices'"),
        ([{"match": "*", "choices": ["shfit"]}], "unknown operator 'shfit'; nearest: 'shift'"),
    ],
)
def test_vocabularies_that_do_not_fit_are_refused(vocabularies, message):
    with pytest.raises(ValueError, match=message):
        Space.of(marian(), vocabularies)


@pytest.mark.parametrize(
    ("choices", "message"),
    [([], "needs choices"), (["shift", "shift"], "mean the same"), (["softmax", "dense"], "same")],
)
def test_vocabularies_without_meaning_are_refused(choices, message):
    with pytest.raises(ValueError, match=message):
        choose(choices, role="attn.self")


@pytest.mark.parametrize("limit", [at_most("sfhit", 1), at_most("shift", 1, "decoder")])
def test_limits_that_concern_nothing_are_refused(limit):
    with pytest.raises(ValueError, match="concerns no choice: operators nearest: 'shift'"):
        Space.of(nn.Sequential(nn.Linear(2, 2)), [choose(["dense", "shift"], "*")], [limit])


def test_limits_that_nothing_meets_are_refused():
    with pytest.raises(ValueError, match="no candidate meets all limits"):
        Space.of(
            nn.Sequential(nn.Linear(2, 2)),
            [choose(["shift", "adder"], "*")],
            [at_most("shift", 0), at_most("adder", 0)],
        )


@pytest.mark.parametrize(
    ("op", "message"),
    [
        ({"role": "mlp.*", "op": "bcq"}, "mlp.* is bcq in the plan; the space offers dense, shift"),
        ({"role": "attn.q", "op": "shift"}, "q_proj shift, which the space leaves as it is"),
        ({"match": "*.fc1", "op": "shift"}, "is shift, dense in the plan"),
    ],
)
def test_a_plan_outside_of_the_space_is_named(op, message):
    model = marian()
    with pytest.raises(ValueError, match=message):
        preset("marian").from_plan(sat.make_plan(model, [op]))


def test_a_plan_beyond_the_limits_is_named():
    with pytest.raises(ValueError, match="2 decisions choose softmax, at most 1 may"):
        entangled().from_plan(sat.make_plan(marian(), []))


@pytest.mark.parametrize("candidate", [(0, 0), (0, 0, 3), (0, 0, -1)])
def test_what_is_no_candidate_is_refused(candidate):
    with pytest.raises(ValueError, match="one index for each of 3 decisions"):
        layers(3).canonical(candidate)
