"""A supernet computes what the plan's own model computes, from one stored tensor per layer."""

from __future__ import annotations

import random

import pytest
import torch
from hf.families import BY_NAME
from nas.vocabularies import EVERY_CORE, EVERY_LAYER
from torch import nn

import shiftadd_transformers as sat
from search import Space, choose, presets
from search.supernet import Supernet

NO_OWN_WEIGHT = (1, 2, 5, 6, 7, 8, 9, 10)  # of EVERY_LAYER: what shares the tensor and is not dense


def whole_space(model):
    return Space.of(model, [choose(EVERY_CORE, role="attn.self"), choose(EVERY_LAYER, "*")])


def moved(supernet, seed=0):
    """As after a training: no tensor is where it started, statistics included."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in supernet.model.named_parameters():
            if not name.endswith("embed_positions.weight"):  # sinusoids are computed, not saved
                parameter.add_(0.02 * torch.randn_like(parameter))
        for name, buffer in supernet.model.named_buffers():
            if name.endswith(".mean") and buffer.is_floating_point():
                buffer.add_(0.1)
    return supernet


@pytest.mark.parametrize("sharing", ["heterogeneous", "separate"])
@pytest.mark.parametrize("family", [*map(BY_NAME.get, ["marian", "vit", "bert", "gpt2"])], ids=lambda f: f.name)
def test_chosen_extracted_and_packed_compute_the_same(family, sharing):
    model = family.build()
    space = whole_space(model) if family.name != "gpt2" else Space.of(model, [choose(EVERY_LAYER, "*")])
    supernet = moved(Supernet(model, space, sharing=sharing))
    rng = random.Random(family.name)
    for candidate in [*space.reference_points().values(), *(space.sample(rng) for _ in range(4))]:
        chosen = family.output(supernet.choose(candidate).model)
        extracted = supernet.extract(candidate)
        torch.testing.assert_close(family.output(extracted), chosen, rtol=1e-5, atol=1e-5)
        packed = sat.hf.pack_(extracted)
        torch.testing.assert_close(family.output(packed), chosen, rtol=1e-4, atol=1e-4)


def test_it_starts_as_the_converted_model_does_where_no_map_is_between():
    family = BY_NAME["vit"]
    model = family.build()
    space = Space.of(model, [choose(["dense", "shift", sat.BcqSpec(planes=2), "mixture"], "*", together="all")])
    supernet = Supernet(model, space)
    for choice in range(4):
        converted = sat.convert_(family.build(), space.to_plan((choice,)))
        torch.testing.assert_close(family.output(supernet.choose((choice,)).model), family.output(converted))


@pytest.mark.parametrize("choice", NO_OWN_WEIGHT)
def test_every_operator_trains_the_one_tensor(choice):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16))
    space = Space.of(model, [choose(EVERY_LAYER, "*")])
    supernet = Supernet(model, space).choose((choice,))
    layer = supernet.model[0]
    shapes = [tuple(p.shape) for p in layer.parameters()]
    assert shapes.count((16, 16)) == 1
    layer(torch.randn(32, 16)).square().mean().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.abs().sum() > 0
    others = [v for i, v in enumerate(layer.operators) if i != choice]
    assert all(p.grad is None for other in others for p in other.parameters())


@pytest.mark.parametrize(("name", "preset"), [("marian", presets.translation), ("vit", presets.vit)])
def test_sharing_keeps_the_supernet_small(name, preset):
    options = {"d_model": 64, "encoder_ffn_dim": 256, "decoder_ffn_dim": 256}
    sizes = options if name == "marian" else {"hidden_size": 64, "intermediate_size": 256}
    family = BY_NAME[name]
    model = family.head(family.config(**{**family.options, **sizes}))
    space = preset(model)
    shared, separate = (Supernet(model, space, sharing=kind) for kind in ("heterogeneous", "separate"))
    assert shared.parameters_ratio <= 1.3
    assert separate.parameters_ratio > 1.5 * shared.parameters_ratio


def test_an_extracted_model_is_a_copy():
    family = BY_NAME["vit"]
    model = family.build()
    supernet = Supernet(model, whole_space(model))
    candidate = supernet.space.uniform("shift")
    before = family.output(supernet.choose(candidate).model)
    with torch.no_grad():
        for parameter in supernet.extract(candidate).parameters():
            parameter.zero_()
    torch.testing.assert_close(family.output(supernet.choose(candidate).model), before)
    assert not any(p.is_meta for p in supernet.extract(candidate).parameters())


def test_statistics_belong_to_their_operator():
    family = BY_NAME["vit"]
    model = family.build()
    space = Space.of(model, [choose([sat.BinaryLinearSpec(kernel_size=3), "adder_attention"], role="attn.self")])
    supernet = Supernet(model, space)
    core = next(m for m in supernet.model.modules() if type(m).__name__ == "ChoiceCore")
    before = [{k: v.clone() for k, v in c.state_dict().items()} for c in core.cores]
    supernet.choose([0] * len(space.decisions)).model.train()(**family.inputs())
    after = [c.state_dict() for c in core.cores]
    assert any(not torch.equal(before[0][k], after[0][k]) for k in before[0])
    assert all(torch.equal(before[1][k], after[1][k]) for k in before[1])


def test_its_weights_can_be_stored_and_read():
    family = BY_NAME["marian"]
    model = family.build()
    space = presets.translation(model)
    first, second = moved(Supernet(model, space)), Supernet(model, space)
    second.model.load_state_dict(first.model.state_dict())
    candidate = space.sample(random.Random(1))
    torch.testing.assert_close(
        family.output(second.choose(candidate).model), family.output(first.choose(candidate).model)
    )


def test_an_extracted_model_is_saved_and_loaded(tmp_path):
    family = BY_NAME["marian"]
    supernet = moved(Supernet(family.build(), presets.translation(family.build())))
    model = sat.hf.pack_(supernet.extract(supernet.space.sample(random.Random(2))))
    sat.hf.save(model, tmp_path)
    torch.testing.assert_close(family.output(sat.hf.load(tmp_path)), family.output(model))


def test_it_leaves_the_model_alone():
    family = BY_NAME["vit"]
    model = family.build()
    before = family.output(model)
    moved(Supernet(model, whole_space(model)))
    assert torch.equal(family.output(model), before)


def test_generation_step_by_step():
    family = BY_NAME["marian"]
    model = family.build()
    supernet = moved(Supernet(model, presets.translation(model)))
    ids = family.inputs()["input_ids"]
    for seed in range(3):
        candidate = supernet.space.sample(random.Random(seed))
        options = {"max_new_tokens": 5, "do_sample": False}
        from_supernet = supernet.choose(candidate).model.generate(ids, **options)
        assert torch.equal(from_supernet, supernet.extract(candidate).generate(ids, **options))


def test_an_unknown_sharing_is_refused():
    model = nn.Sequential(nn.Linear(4, 4))
    with pytest.raises(ValueError, match="heterogeneous"):
        Supernet(model, Space.of(model, [choose(["dense", "shift"], "*")]), sharing="hetero")
