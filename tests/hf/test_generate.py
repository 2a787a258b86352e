"""Decoding one token at a time gives what the whole sequence gives, and no token sees the future."""

from __future__ import annotations

import pytest
import torch
from hf.families import BY_NAME

from shiftadd_transformers import AdderSpec, BcqSpec, ShiftAddSpec, ShiftSpec, convert_, pack_, rule

RULES = [
    rule(role="attn.q*", op=AdderSpec()),
    rule(role="attn.o", op=BcqSpec()),
    rule(role="mlp.down", op=ShiftAddSpec()),
    rule("*", ShiftSpec(activation_bits=8)),
]
DECODERS = [
    BY_NAME[name]
    for name in (
        "marian",
        "bart",
        "t5",
        "whisper",
        "opt",
        "llama",
        "qwen3",
        "gemma3",
        "phi3",
        "gpt2",
    )
]


def packed(name):
    return pack_(convert_(BY_NAME[name].build(), RULES))


@pytest.mark.parametrize("name", ["marian", "llama", "gpt2"])
@pytest.mark.parametrize("beams", [1, 3], ids=["greedy", "beam"])
def test_generates_the_same_with_and_without_cache(name, beams):
    model = packed(name)
    inputs = {k: v for k, v in BY_NAME[name].inputs().items() if not k.startswith("decoder")}
    length = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False, "num_beams": beams}
    cached = model.generate(**inputs, **length, use_cache=True)
    whole = model.generate(**inputs, **length, use_cache=False)
    assert torch.equal(cached, whole)
    assert len(cached[0].unique()) > 1


@pytest.mark.parametrize("family", DECODERS, ids=lambda f: f.name)
@pytest.mark.parametrize("state", ["latent", "packed"])
def test_a_later_token_does_not_change_earlier_logits(family, state):
    model = convert_(family.build(), RULES)
    model = pack_(model) if state == "packed" else model
    inputs = family.inputs()
    key = "decoder_input_ids" if "decoder_input_ids" in inputs else "input_ids"
    before = model(**inputs).logits
    changed = inputs[key].clone()
    changed[:, -1] = (changed[:, -1] + 5) % 50 + 4
    after = model(**{**inputs, key: changed}).logits
    assert torch.equal(after[:, :-1], before[:, :-1])
    assert not torch.equal(after[:, -1], before[:, -1])


@pytest.mark.parametrize("name", ["bert", "vit", "llama"])
def test_an_example_does_not_depend_on_its_batch(name):
    family, model = BY_NAME[name], packed(name)
    both = family.output(model)
    one = model(**{key: value[:1] for key, value in family.inputs().items()}).logits
    torch.testing.assert_close(one, both[:1], rtol=1e-4, atol=1e-5)
