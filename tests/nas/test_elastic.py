"""All sizes share one set of weights: a smaller one computes with the leading part of it."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from hf.families import BY_NAME
from nas.vocabularies import EVERY_CORE, EVERY_LAYER
from torch import nn

import shiftadd_transformers as sat
from search import Space, choose, depth, heads, widths
from search.supernet import Supernet

LARGER = {
    "marian": {"encoder_layers": 3, "decoder_layers": 3, "encoder_attention_heads": 4, "decoder_attention_heads": 4},
    "vit": {"num_hidden_layers": 3, "num_attention_heads": 4},
    "bert": {"num_hidden_layers": 3, "num_attention_heads": 4},
    "llama": {"num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4},
    "gpt2": {"n_layer": 3, "n_head": 4},
}


def larger(name):
    family = BY_NAME[name]
    return replace(family, options={**family.options, **LARGER[name]})


def everything(name, model):
    """All operators beside all sizes."""
    written = [choose(EVERY_LAYER, "*"), widths([8, 16, 24]), depth([1, 2, 3])]
    if name != "gpt2":
        written += [choose(EVERY_CORE, role="attn.self"), heads([2, 4])]
    return Space.of(model, written)


def moved(supernet, seed=0):
    """As after a training: no tensor is where it started, statistics included."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in supernet.model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
        for name, buffer in supernet.model.named_buffers():
            if name.endswith(".mean"):
                buffer.add_(0.1 * torch.rand_like(buffer))
    return supernet


@pytest.mark.parametrize(("name", "sharing"), [*((name, "heterogeneous") for name in LARGER), ("vit", "separate")])
def test_chosen_extracted_and_packed_compute_the_same(name, sharing):
    family = larger(name)
    model = family.build()
    space = everything(name, model)
    supernet = moved(Supernet(model, space, sharing=sharing))
    rng = random.Random(name)
    for _ in range(3):
        candidate = space.sample(rng)
        chosen = family.output(supernet.choose(candidate).model)
        assert chosen.isfinite().all()
        extracted = supernet.extract(candidate)
        torch.testing.assert_close(family.output(extracted), chosen, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(family.output(sat.pack_(extracted)), chosen, rtol=1e-4, atol=1e-4)
        assert extracted.config.quantization_config.plan.sizes == space.to_plan(candidate).sizes


@pytest.mark.parametrize("spec", EVERY_LAYER)
def test_smaller_layers_train_the_leading_part(spec):
    model = nn.ModuleDict({"fc1": nn.Linear(8, 16), "fc2": nn.Linear(16, 8)})
    space = Space.of(model, [choose([spec], "*"), widths([8, 16])])
    supernet = Supernet(model, space).choose([0] * len(space.decisions))
    supernet.model.train()
    torch.manual_seed(0)
    hidden = supernet.model["fc1"](torch.randn(32, 8))
    supernet.model["fc2"](hidden).square().mean().backward()
    assert hidden.shape == (32, 8)
    first, second = (supernet.model[name].weight.grad for name in ("fc1", "fc2"))
    assert first[:8].abs().sum() > 0
    assert second[:, :8].abs().sum() > 0
    assert not first[8:].any()
    assert not second[:, 8:].any()


def test_statistics_of_smaller_layers_are_kept():
    family = larger("vit")
    model = family.build()
    cores, layers = choose([sat.BinaryLinearSpec(kernel_size=3)], role="attn.self"), choose(["mixture"], role="mlp.*")
    space = Space.of(model, [cores, layers, heads([2, 4]), widths([8, 24]), depth([2, 3])])
    supernet = Supernet(model, space).choose([0] * len(space.decisions))
    supernet.model.train()(**family.inputs())
    state = supernet.model.state_dict()
    means = [t for n, t in state.items() if n.endswith("queries.threshold.mean")]
    rows = [t for n, t in state.items() if n.endswith("fc1.operators.0.layer.rows_seen")]
    assert [bool(mean[:2].all()) for mean in means] == [True, True, False]
    assert not any(mean[2:].any() for mean in means)
    assert [int(seen.sum()) > 0 for seen in rows] == [True, True, False]
    chosen = family.output(supernet.model.eval())
    torch.testing.assert_close(family.output(supernet.extract([0] * len(space.decisions))), chosen)


def test_all_layers_are_trained_and_stored_whatever_is_chosen():
    family = larger("marian")
    model = family.build()
    space = Space.of(model, [depth([1, 3]), widths([8, 24])])
    supernet = Supernet(model, space)
    names = set(dict(supernet.choose(space.uniform("dense")).model.named_parameters()))
    assert set(dict(supernet.choose([0] * len(space.decisions)).model.named_parameters())) == names
    assert len(supernet.model.model.decoder.layers) == 1
    assert len(supernet.extract([0] * len(space.decisions)).model.decoder.layers) == 1
    whole = supernet.extract(space.uniform("dense"))
    torch.testing.assert_close(family.output(whole), family.output(model))


def test_a_smaller_subnet_generates_as_its_extract_does():
    family = larger("marian")
    model = family.build()
    space = Space.of(model, [depth([2, 3]), widths([8, 24]), heads([2, 4])])
    supernet = moved(Supernet(model, space))
    candidate = [0] * len(space.decisions)
    inputs = {k: v for k, v in family.inputs().items() if not k.startswith("decoder")}
    options = {"max_new_tokens": 5, "do_sample": False, "num_beams": 2}
    chosen = supernet.choose(candidate).model.generate(**inputs, **options)
    assert torch.equal(supernet.extract(candidate).generate(**inputs, **options), chosen)
