"""Attention cores and token mixers inside real model classes: masks, caches, batches, checkpoints."""

from __future__ import annotations

import copy

import pytest
import torch
import transformers as hf
from hf.families import BY_NAME, FAMILIES
from hf.loading import load_clean
from torch import nn

import shiftadd_transformers as sat
from shiftadd_transformers.hf import attention_maps
from shiftadd_transformers.layers.attention import AttentionCore
from shiftadd_transformers.layers.projections import NarrowProjection

CORES = {
    "binary_linear": sat.BinaryLinearSpec(kernel_size=3),
    "binary_sign": sat.BinaryLinearSpec(codes="sign", kernel_size=3),
    "binary_quadratic": sat.BinaryLinearSpec(form="quadratic"),
    "adder": sat.AdderAttentionSpec(),
    "adder_int8": sat.AdderAttentionSpec(bits=8),
    "conv": sat.MixerSpec(kernel_size=3),
    "add": sat.MixerSpec(op="add", kernel_size=3),
    "shift_add": sat.MixerSpec(op="shift_add", kernel_size=3),
    "attn+conv": sat.MixerSpec(attention=True, kernel_size=3),
    "attn+add": sat.MixerSpec(op="add", attention=True, kernel_size=3),
    "attn+shift_add": sat.MixerSpec(op="shift_add", attention=True, kernel_size=3),
}
T5_REFUSES = ("binary_linear", "binary_sign")
WITH_SCORES = ("binary_quadratic", "adder", "adder_int8")
DECODERS = ["llama", "mistral", "qwen3", "gemma3", "gpt2", "opt", "phi3"]
SEQ2SEQ = ["marian", "bart", "t5", "whisper"]


def with_core(family_name: str, core: str, seed: int = 0) -> hf.PreTrainedModel:
    """A model whose self-attentions have this core, with parameters that are not what they start from."""
    model = BY_NAME[family_name].build(seed)
    sat.convert_(model, [sat.rule(role="attn.self", op=CORES[core])])
    torch.manual_seed(seed + 1)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, AttentionCore):
                for parameter in module.parameters():
                    parameter.add_(0.3 * torch.randn_like(parameter))
                for name, buffer in module.named_buffers():
                    if name.endswith("threshold.mean"):
                        buffer.copy_(0.2 * torch.randn_like(buffer))
    return model


def supported(family_name: str, core: str) -> bool:
    return not (family_name.startswith("t5") and core in T5_REFUSES)


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
def test_every_family_computes_with_every_core(family, core):
    if not supported(family.name, core):
        pytest.skip("refused, tested below")
    if family.name == "swin" and core in T5_REFUSES:
        pytest.skip("refused, tested below")
    dense = family.output(family.build())
    model = with_core(family.name, core)
    output = family.output(model)
    assert output.isfinite().all()
    assert (output - dense).abs().max() > 1e-5  # the cores are called


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("family", DECODERS)
def test_the_future_does_not_change_the_past(family, core):
    model = with_core(family, core)
    ids = torch.tensor([[5, 9, 13, 7, 21, 8]])
    changed = ids.clone()
    changed[0, 4:] = torch.tensor([30, 31])
    with torch.no_grad():
        one, other = model(input_ids=ids).logits, model(input_ids=changed).logits
    assert torch.equal(one[:, :4], other[:, :4])
    assert not torch.equal(one[:, 4:], other[:, 4:])


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("family", SEQ2SEQ)
def test_the_future_does_not_change_the_past_of_a_decoder(family, core):
    if not supported(family, core):
        pytest.skip("refused, tested below")
    model, inputs = with_core(family, core), BY_NAME[family].inputs()
    changed = {**inputs, "decoder_input_ids": inputs["decoder_input_ids"].clone()}
    changed["decoder_input_ids"][:, 4:] = 11
    with torch.no_grad():
        one, other = model(**inputs).logits, model(**changed).logits
    assert torch.equal(one[:, :4], other[:, :4])
    assert not torch.equal(one[:, 4:], other[:, 4:])


@pytest.mark.parametrize("cache", ["dynamic", "static"])
@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
def test_generation_with_a_cache_is_generation_without(family, core, cache):
    model = with_core(family, core)
    ids = torch.tensor([[5, 9, 13], [0, 0, 7]])
    options = {"attention_mask": (ids != 0).long(), "max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False}
    options |= {"pad_token_id": 0, "return_dict_in_generate": True, "output_logits": True}
    without = model.generate(ids, use_cache=False, **options)
    kind = {} if cache == "dynamic" else {"cache_implementation": "static", "disable_compile": True}
    cached = model.generate(ids, use_cache=True, **options, **kind)
    assert torch.equal(without.sequences, cached.sequences)
    for a, b in zip(without.logits, cached.logits, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("spec", [sat.BinaryLinearSpec(), sat.MixerSpec(), sat.MixerSpec(op="add")], ids=str)
def test_a_kernel_longer_than_a_sliding_window_is_cut_to_it(spec):
    """Gemma3 here looks back 4 tokens, and its cache keeps no more."""
    model = sat.convert_(BY_NAME["gemma3"].build(), [sat.rule(role="attn.self", op=spec)])
    cores = [module for module in model.modules() if isinstance(module, AttentionCore)]
    assert [core.taps.shape[1] for core in cores] == [4 if core.reach else spec.kernel_size for core in cores]
    assert any(core.reach for core in cores)
    with torch.no_grad():
        for core in cores:
            core.taps.copy_(torch.randn_like(core.taps))
    ids = torch.tensor([[5, 9, 13, 30, 7]])
    options = {"max_new_tokens": 8, "min_new_tokens": 8, "return_dict_in_generate": True, "output_logits": True}
    without, cached = (model.generate(ids, do_sample=False, use_cache=c, **options) for c in (False, True))
    for a, b in zip(without.logits, cached.logits, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("family", ["marian", "t5"])
def test_a_seq2seq_model_generates_the_same_with_a_cache(family, core):
    if not supported(family, core):
        pytest.skip("refused, tested below")
    model, inputs = with_core(family, core), BY_NAME[family].inputs()
    inputs.pop("decoder_input_ids")
    inputs["attention_mask"][1, 4:] = 0
    options = {"max_new_tokens": 8, "min_new_tokens": 8, "num_beams": 2, "do_sample": False}
    assert torch.equal(model.generate(**inputs, use_cache=False, **options), model.generate(**inputs, **options))


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("family", ["vit", "deit", "bert", "marian", "clip-vision"])
def test_a_batch_of_one_is_a_batch_of_many(family, core):
    model, inputs = with_core(family, core), BY_NAME[family].inputs()
    key = BY_NAME[family].gives
    if "attention_mask" in inputs:
        inputs["attention_mask"][1, 4:] = 0
    with torch.no_grad():
        together = model(**inputs)[key]
        alone = model(**{name: value[1:] for name, value in inputs.items()})[key]
        cut = {n: v[1:, :4] if n in ("input_ids", "attention_mask") else v[1:] for n, v in inputs.items()}
        unpadded = model(**cut)[key] if "attention_mask" in inputs else alone
    length = unpadded.shape[1]
    torch.testing.assert_close(together[1:], alone, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(together[1:, :length], unpadded[:, :length], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("state", ["latent", "packed"])
@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("family", ["vit", "llama", "marian", "gpt2", "bert"])
def test_a_checkpoint_comes_back_equal(family, core, state, tmp_path):
    case, model = BY_NAME[family], with_core(family, core)
    linear = {"attn+conv": "shift", "conv": "shift"}.get(core)
    if linear:
        sat.convert_(model, [sat.rule(role="*", op=linear)])  # the second stage, on what is still dense
    if state == "packed":
        sat.pack_(model)
    before = case.output(model)
    sat.save(model, tmp_path)
    again = load_clean(type(model), tmp_path)
    assert torch.equal(case.output(again), before)
    assert again.config.quantization_config.plan.converted == model.config.quantization_config.plan.converted


@pytest.mark.parametrize("state", ["latent", "packed"])
def test_a_dense_checkpoint_is_converted_on_the_way_in(state, tmp_path):
    family = BY_NAME["bert"]
    dense = family.build()
    dense.save_pretrained(tmp_path)
    rules = [sat.rule(role="attn.self", op=CORES["shift_add"]), sat.rule(role="mlp.*", op="shift")]
    loaded = type(dense).from_pretrained(tmp_path, quantization_config=sat.ShiftAddConfig(rules, state=state)).eval()
    converted = sat.convert_(family.build(), rules)
    torch.testing.assert_close(family.output(loaded), family.output(converted))
    loaded.save_pretrained(tmp_path / "again")
    assert torch.equal(family.output(load_clean(type(dense), tmp_path / "again")), family.output(loaded))


@pytest.mark.parametrize("core", ["binary_linear", "adder", "attn+shift_add"])
def test_a_checkpoint_loads_in_bfloat16(core, tmp_path):
    family, model = BY_NAME["llama"], with_core("llama", core)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path, dtype=torch.bfloat16).eval()
    output = family.output(loaded)
    assert output.dtype == torch.bfloat16
    assert output.isfinite().all()


@pytest.mark.parametrize("core", ["binary_linear", "adder"])
def test_activation_checkpointing_gives_the_same_gradients(core):
    def gradients(checkpointing):
        model, family = with_core("vit", core).train(), BY_NAME["vit"]
        if checkpointing:
            model.activation_checkpointing_enable()
        for _ in range(2):  # thresholds follow twice, and not once more while a forward is repeated
            model(**family.inputs(), labels=torch.tensor([0, 1])).loss.backward()
        grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        return grads, {name: b for name, b in model.named_buffers() if name.endswith(("mean", "batches"))}

    torch.testing.assert_close(gradients(True), gradients(False))


def test_both_stages_at_once_are_one_stage_after_the_other():
    attention, linear = sat.rule(role="attn.self", op=CORES["attn+add"]), sat.rule(role="*", op="shift")
    staged = sat.convert_(sat.convert_(BY_NAME["marian"].build(), [attention]), [linear])
    at_once = sat.convert_(BY_NAME["marian"].build(), [attention, linear])
    assert torch.equal(BY_NAME["marian"].output(staged), BY_NAME["marian"].output(at_once))
    assert list(staged.state_dict()) == list(at_once.state_dict())


def test_a_mixer_leaves_out_what_it_does_not_read():
    dense = BY_NAME["marian"].build()
    pure = sat.convert_(
        copy.deepcopy(dense), [sat.rule(role="attn.self", op="mixer"), sat.rule(role="attn.*", op="shift")]
    )
    half = sat.convert_(copy.deepcopy(dense), [sat.rule(role="attn.self", op=CORES["attn+conv"])])
    entry = pure.config.quantization_config.plan.entries["model.encoder.layers.0.self_attn.q_proj"]
    assert (entry.spec, entry.reason) == (sat.DenseSpec(), "left out by the mixer")
    assert not list(pure.model.encoder.layers[0].self_attn.q_proj.parameters())
    assert half.model.encoder.layers[0].self_attn.k_proj.linear.weight.shape == (8, 16)
    old, new = dense.model.encoder.layers[0].self_attn, half.model.encoder.layers[0].self_attn
    x = torch.randn(3, 16)
    torch.testing.assert_close(new.q_proj(x)[:, :8], old.q_proj(x)[:, :8])
    assert not new.q_proj(x)[:, 8:].any()


def test_a_linear_attention_refuses_scores_with_a_position_bias():
    model = with_core("t5", "binary_linear")
    with pytest.raises(ValueError, match="position bias"):
        BY_NAME["t5"].output(model)


def test_models_outside_the_attention_interface_are_refused_and_left_whole():
    class OwnAttention(nn.Module):
        def __init__(self):
            super().__init__()
            self.self_attn = nn.Module()
            self.self_attn.num_heads = 2
            for name in ("q_proj", "k_proj", "v_proj"):
                setattr(self.self_attn, name, nn.Linear(8, 8))

    model = OwnAttention()
    with pytest.raises(ValueError, match="attention interface"):
        sat.convert_(model, [sat.rule(role="attn.self", op="binary_linear")])
    assert not hasattr(model.self_attn, "core")
    gptj = hf.GPTJForCausalLM(
        hf.GPTJConfig(n_embd=16, n_layer=1, n_head=2, vocab_size=20, rotary_dim=4, n_positions=16)
    )
    with pytest.raises(ValueError, match="attention interface"):
        sat.convert_(gptj, [sat.rule(match="*.attn", op="binary_linear")])


def test_rules_for_attentions_say_what_they_missed():
    model = BY_NAME["vit"].build()
    with pytest.raises(ValueError, match=r"matched no attention of ViTForImageClassification; nearest: 'attn.self'"):
        sat.make_plan(model, [sat.rule(role="attn.slef", op="binary_linear")])
    with pytest.raises(ValueError, match="no attention inside"):
        sat.make_plan(nn.ModuleDict({"fc1": nn.Linear(2, 2)}), [sat.rule("*", "binary_linear")])
    with pytest.raises(ValueError, match="cross"):
        sat.convert_(BY_NAME["marian"].build(), [sat.rule(role="attn.cross", op="mixer")])
    with pytest.raises(ValueError, match="odd"):
        sat.convert_(model, [sat.rule(role="attn.self", op=sat.MixerSpec(kernel_size=4))])
    assert not any(isinstance(m, AttentionCore | NarrowProjection) for m in model.modules())


def test_a_model_goes_back_to_softmax_only_when_told_to():
    family = BY_NAME["vit"]
    model = sat.convert_(family.build(), [sat.rule(role="attn.self", op="adder_attention")])
    with pytest.raises(ValueError, match="approximate"):
        sat.revert_(model)
    torch.testing.assert_close(family.output(sat.revert_(model, approximate=True)), family.output(family.build()))
    mixed = sat.convert_(family.build(), [sat.rule(role="attn.self", op="mixer")])
    with pytest.raises(ValueError, match="left out"):
        sat.revert_(mixed, approximate=True)


@pytest.mark.parametrize("core", CORES)
def test_attention_maps_of_every_core(core):
    model, family = with_core("vit", core), BY_NAME["vit"]
    maps = attention_maps(model, **family.inputs())
    assert list(maps) == ["vit.layers.0.attention", "vit.layers.1.attention"]
    for weights in maps.values():
        assert weights.shape == (2, 2, 5, 5)
        assert weights.isfinite().all()
        if core in WITH_SCORES:
            torch.testing.assert_close(weights.sum(-1), torch.ones(2, 2, 5))


@pytest.mark.parametrize("name", ["vit", "opt", "llama"])  # plain; queries scaled before; fewer heads of keys
def test_attention_maps_of_a_dense_model_are_its_probabilities(name):
    model, family = BY_NAME[name].build(), BY_NAME[name]
    maps = attention_maps(model, **family.inputs())
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    with torch.no_grad():
        expected = model(**family.inputs(), output_attentions=True).attentions
    model.set_attn_implementation(before)
    for ours, theirs in zip(maps.values(), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("core", CORES)
def test_gradients_reach_every_parameter_of_a_core(core):
    model, family = with_core("vit", core).train(), BY_NAME["vit"]
    model(**family.inputs(), labels=torch.tensor([0, 1])).loss.backward()
    for name, parameter in model.named_parameters():
        if "layers.0" in name and not name.endswith(("k_proj.bias",)):
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.any(), name
