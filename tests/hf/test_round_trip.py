"""dense → latent → packed → disk → the same logits, for every supported model class, and every way back."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pytest
import torch
import transformers as hf
from hf.families import BY_NAME, FAMILIES, Family
from hf.loading import latent_layers, load_clean, operator_layers, packed_layers
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from shiftadd_transformers import (
    AdderSpec,
    BcqSpec,
    ShiftAddConfig,
    ShiftAddSpec,
    ShiftSpec,
    convert_,
    load,
    make_plan,
    pack_,
    revert_,
    rule,
    save,
    unpack_,
)

# Three operators that a dense layer can stand for, so that every family can also go back.
RULES = [
    rule(role="mlp.down", op=ShiftSpec(5, 2, group_size=8)),
    rule(role="attn.o", op=BcqSpec(4)),
    rule("*", ShiftSpec(4)),
]
HYBRID = [
    rule(role="mlp.up", op=ShiftSpec(parametrization="denseshift")),
    rule(role="mlp.gate*", op=ShiftSpec(parametrization="ps", activation_bits=8)),
    rule(role="mlp.down", op=ShiftSpec(parametrization="ps")),
    rule(role="attn.q*", op=AdderSpec()),
    rule(role="attn.k", op=AdderSpec(None), layers=0),
    rule(role="attn.v", op=ShiftAddSpec()),
    rule(role="attn.o", op=BcqSpec(grouping="block")),
    rule("*", ShiftSpec(3, 2)),
]


@dataclass
class Journey:
    """One family's models and checkpoints, each made once and never changed by a test."""

    family: Family
    folder: Path
    rules: list = field(default_factory=lambda: RULES)

    @cached_property
    def dense(self) -> hf.PreTrainedModel:
        return self.family.build()

    @cached_property
    def dense_dir(self) -> Path:
        return self._saved(self.dense, "dense")

    @cached_property
    def latent(self) -> hf.PreTrainedModel:
        return convert_(self.family.build(), self.rules)

    @cached_property
    def latent_dir(self) -> Path:
        return self._saved(self.latent, "latent")

    @cached_property
    def packed(self) -> hf.PreTrainedModel:
        return pack_(convert_(self.family.build(), self.rules))

    @cached_property
    def packed_dir(self) -> Path:
        return self._saved(self.packed, "packed")

    @cached_property
    def logits(self) -> Tensor:
        return self.output(self.latent)

    def output(self, model: hf.PreTrainedModel) -> Tensor:
        return self.family.output(model)

    def same(self, model: hf.PreTrainedModel) -> bool:
        return torch.equal(self.output(model), self.logits)

    def _saved(self, model: hf.PreTrainedModel, name: str) -> Path:
        model.save_pretrained(self.folder / name)
        return self.folder / name


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda f: f.name)
def journey(request, tmp_path_factory) -> Iterator[Journey]:
    torch.set_num_threads(1)
    return Journey(request.param, tmp_path_factory.mktemp(request.param.name))


@pytest.fixture(scope="module", params=["t5-gated", "marian", "qwen2", "bert-mlm"])
def hybrid(request, tmp_path_factory) -> Iterator[Journey]:
    gated = request.param in ("t5-gated", "qwen2")
    rules = [r for r in HYBRID if gated or "gate" not in str(r)]
    return Journey(BY_NAME[request.param], tmp_path_factory.mktemp(f"hybrid-{request.param}"), rules)


def stored_config(path: Path) -> dict:
    return json.loads((path / "config.json").read_text())["quantization_config"]


def test_conversion_changes_the_model_and_packing_does_not(journey):
    assert not journey.same(journey.dense)
    assert journey.same(journey.packed)
    assert journey.logits.isfinite().all()
    assert latent_layers(journey.latent) == packed_layers(journey.packed) != []
    assert len(latent_layers(journey.latent)) == sum(journey.family.roles.values())


def test_a_dense_checkpoint_loads_as_latent(journey):
    model = load_clean(journey.family.head, journey.dense_dir, quantization_config=ShiftAddConfig(RULES))
    assert latent_layers(model) == latent_layers(journey.latent)
    assert model.config.quantization_config.state == "latent"
    assert model.hf_quantizer.is_qat_trainable
    assert journey.same(model)


def test_a_dense_checkpoint_loads_as_packed(journey):
    config = ShiftAddConfig(plan=make_plan(journey.dense, RULES), state="packed")
    model = load_clean(journey.family.head, journey.dense_dir, quantization_config=config)
    assert packed_layers(model) == packed_layers(journey.packed)
    assert not model.hf_quantizer.is_qat_trainable
    assert journey.same(model)


def test_latent_reloads_and_trains_on(journey):
    model = load_clean(journey.family.head, journey.latent_dir)
    assert latent_layers(model) == latent_layers(journey.latent)
    assert journey.same(model)
    assert all(p.requires_grad for p in model.get_submodule(latent_layers(model)[0]).parameters())
    assert journey.same(pack_(model))


def test_packed_reloads_with_no_argument(journey):
    model = load_clean(journey.family.head, journey.packed_dir)
    assert packed_layers(model) == packed_layers(journey.packed)
    assert journey.same(model)
    assert stored_config(journey.packed_dir)["state"] == "packed"


def test_packed_saves_again_as_it_was(journey, tmp_path):
    load_clean(journey.family.head, journey.packed_dir).save_pretrained(tmp_path)
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / name).read_bytes() == (journey.packed_dir / name).read_bytes()


def test_the_library_loads_what_it_saves(journey, tmp_path):
    save(journey.packed, tmp_path)
    assert journey.same(load(tmp_path))


def test_dequantize_gives_a_dense_model_with_the_same_function(journey, tmp_path):
    model = load_clean(journey.family.head, journey.packed_dir).dequantize()
    assert operator_layers(model) == []
    assert [type(m) for m in model.modules()] == [type(m) for m in journey.dense.modules()]
    torch.testing.assert_close(journey.output(model), journey.logits, rtol=1e-4, atol=1e-5)
    assert not hasattr(model.config, "quantization_config")
    model.save_pretrained(tmp_path)
    again = load_clean(journey.family.head, tmp_path)
    assert operator_layers(again) == []
    assert torch.equal(journey.output(again), journey.output(model))


def test_loads_dequantized(journey, tmp_path):
    model = load(journey.packed_dir, journey.family.head, dequantize=True)
    assert operator_layers(model) == []
    torch.testing.assert_close(journey.output(model), journey.logits, rtol=1e-4, atol=1e-5)
    assert getattr(model, "hf_quantizer", None) is None
    model.save_pretrained(tmp_path)
    assert torch.equal(journey.output(load_clean(journey.family.head, tmp_path)), journey.output(model))
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())


def test_unpack_and_revert_in_memory(journey):
    model = load_clean(journey.family.head, journey.packed_dir)
    assert journey.same(unpack_(model))
    assert model.hf_quantizer.is_qat_trainable
    revert_(model)
    assert operator_layers(model) == []
    assert not model.is_quantized
    torch.testing.assert_close(journey.output(model), journey.logits, rtol=1e-4, atol=1e-5)


def test_a_head_model_loads_into_the_base_model_and_back(journey, tmp_path):
    base = load_clean(journey.family.base, journey.packed_dir, heads_differ=True)
    assert len(packed_layers(base)) == len(packed_layers(journey.packed))
    expected = journey.output(base)
    base.save_pretrained(tmp_path)
    again = load_clean(journey.family.base, tmp_path)
    assert torch.equal(journey.output(again), expected)
    head = load_clean(journey.family.head, tmp_path, heads_differ=True)
    assert packed_layers(head) == packed_layers(journey.packed)
    stem = head.base_model if head.base_model_prefix and head.base_model is not head else head
    if stem is not head:
        assert torch.equal(journey.output(stem), expected)


def test_bfloat16(journey, tmp_path):
    model = load_clean(journey.family.head, journey.packed_dir, dtype=torch.bfloat16)
    y = journey.output(model)
    assert y.dtype == torch.bfloat16
    assert {m.weight.dtype for m in model.modules() if hasattr(m, "weight_packed")} <= {torch.bfloat16, torch.float32}
    error = (y.float() - journey.logits).norm() / journey.logits.norm()
    assert error < 0.1
    model.save_pretrained(tmp_path)
    assert torch.equal(journey.output(load_clean(journey.family.head, tmp_path, dtype="auto")), y)
    dense = model.dequantize()
    assert {p.dtype for p in dense.parameters()} == {torch.bfloat16}
    assert (journey.output(dense).float() - journey.logits).norm() / journey.logits.norm() < 0.1


def test_sharded(journey, tmp_path):
    journey.packed.save_pretrained(tmp_path, max_shard_size="4KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    assert journey.same(load_clean(journey.family.head, tmp_path))


def test_copies_of_a_whole_model(journey):
    for twin in (copy.deepcopy(journey.packed), pickle.loads(pickle.dumps(journey.packed))):
        assert journey.same(twin)
        unpack_(twin)
        assert twin.config.quantization_config.state == "latent"
    assert journey.packed.config.quantization_config.state == "packed"


def test_automatic_classes_find_the_model(journey):
    auto = hf.AutoModel.from_pretrained(journey.packed_dir)
    assert packed_layers(auto)


# ---- a plan with every operator kind


def test_hybrid_survives_every_form(hybrid):
    assert hybrid.same(hybrid.packed)
    assert hybrid.same(load_clean(hybrid.family.head, hybrid.latent_dir))
    model = load_clean(hybrid.family.head, hybrid.packed_dir)
    assert hybrid.same(model)
    assert hybrid.same(unpack_(model))
    assert hybrid.same(pack_(model))


def test_hybrid_loads_from_a_dense_checkpoint(hybrid):
    for state in ("latent", "packed"):
        config = ShiftAddConfig(hybrid.rules, state=state)
        assert hybrid.same(load_clean(hybrid.family.head, hybrid.dense_dir, quantization_config=config))


def test_hybrid_trains_every_parameter(hybrid):
    model = load_clean(hybrid.family.head, hybrid.latent_dir).train()
    inputs = hybrid.family.inputs()
    labels = inputs.get("decoder_input_ids", inputs["input_ids"])
    model(**inputs, labels=labels).loss.backward()
    for name in latent_layers(model):
        for part, parameter in model.get_submodule(name).named_parameters():
            assert parameter.grad is not None, (name, part)
            assert parameter.grad.isfinite().all(), (name, part)


def test_hybrid_in_bfloat16(hybrid, tmp_path):
    model = load_clean(hybrid.family.head, hybrid.packed_dir, dtype=torch.bfloat16)
    y = hybrid.output(model)
    assert y.dtype == torch.bfloat16
    assert y.isfinite().all()
    model.save_pretrained(tmp_path)
    assert torch.equal(hybrid.output(load_clean(hybrid.family.head, tmp_path, dtype="auto")), y)


def test_hybrid_refuses_to_become_dense(hybrid):
    with pytest.raises(ValueError, match="approximate=True"):
        load_clean(hybrid.family.head, hybrid.packed_dir).dequantize()
    with pytest.raises(ValueError, match="approximate=True"):
        load(hybrid.packed_dir, hybrid.family.head, dequantize=True)
    model = revert_(load_clean(hybrid.family.head, hybrid.packed_dir), approximate=True)
    assert operator_layers(model) == []
    assert hybrid.output(model).isfinite().all()


# ---- single facts


def test_the_plan_in_a_checkpoint_is_the_one_that_was_made(tmp_path):
    journey = Journey(BY_NAME["gpt2"], tmp_path)
    plan = make_plan(journey.dense, RULES)
    loaded = load(journey.packed_dir).config.quantization_config.plan
    assert loaded.converted == plan.converted
    assert loaded.model == "GPT2LMHeadModel"


def test_a_conv1d_comes_back_as_one(tmp_path):
    journey = Journey(BY_NAME["gpt2"], tmp_path)
    for model in (load(journey.packed_dir), load(journey.latent_dir)):
        assert type(revert_(model).transformer.h[0].mlp.c_fc) is Conv1D


def test_a_config_serves_two_models(tmp_path):
    config = ShiftAddConfig([rule(role="mlp.*", op="shift")])
    one = Journey(BY_NAME["llama"], tmp_path / "a")
    two = Journey(BY_NAME["bert"], tmp_path / "b")
    first = one.family.head.from_pretrained(one.dense_dir, quantization_config=config)
    second = two.family.head.from_pretrained(two.dense_dir, quantization_config=config)
    assert len(latent_layers(first)) == 6
    assert len(latent_layers(second)) == 4
    pack_(second)
    assert first.config.quantization_config.state == config.state == "latent"
    assert config.plan is None


def test_a_config_may_be_a_dictionary(tmp_path):
    journey = Journey(BY_NAME["llama"], tmp_path)
    config = {"quant_method": "shiftadd", "rules": [{"role": "mlp.*", "op": "shift"}], "state": "packed"}
    with_dict = journey.family.head.from_pretrained(journey.dense_dir, quantization_config=ShiftAddConfig(**config))
    assert len(packed_layers(with_dict)) == 6


def test_the_state_on_disk_is_the_state_in_memory(tmp_path):
    journey = Journey(BY_NAME["bert"], tmp_path)
    model = load(journey.packed_dir)
    unpack_(model).save_pretrained(tmp_path / "again")
    assert stored_config(tmp_path / "again")["state"] == "latent"
    assert journey.same(load(tmp_path / "again"))


def test_a_reverted_model_is_an_ordinary_one(tmp_path):
    journey = Journey(BY_NAME["bert"], tmp_path)
    model = revert_(load(journey.packed_dir))
    model.half().float()  # refused on a quantized model
    model.save_pretrained(tmp_path / "again")
    assert "quantization_config" not in json.loads((tmp_path / "again" / "config.json").read_text())


def test_part_of_a_model_can_be_saved(tmp_path):
    journey = Journey(BY_NAME["llama"], tmp_path)
    load(journey.packed_dir).model.save_pretrained(tmp_path / "base")
    base = load_clean(hf.AutoModel, tmp_path / "base")
    assert torch.equal(journey.output(base), journey.output(journey.packed.model))


def test_heads_convert_where_they_are_not_tied(tmp_path):
    model = BY_NAME["bert"].build()
    convert_(model, make_plan(model, [rule("*", "shift")], protect=False))
    assert "classifier" in latent_layers(model)
    y = BY_NAME["bert"].output(model)
    save(pack_(model), tmp_path)
    assert torch.equal(BY_NAME["bert"].output(load(tmp_path)), y)


def test_plain_modules_need_no_plug_in():
    model = nn.Sequential(nn.Linear(4, 4))
    assert not hasattr(pack_(convert_(model, [rule("*", "shift")])), "hf_quantizer")


def test_dequantized_checkpoints_load_without_the_library(tmp_path):
    journey = Journey(BY_NAME["gpt2"], tmp_path)
    loaded = load(journey.packed_dir, dequantize=True)
    loaded.save_pretrained(tmp_path / "plain")
    torch.save(journey.family.inputs(), tmp_path / "inputs.pt")
    script = (
        "import sys, torch, transformers;"
        "model, report = transformers.GPT2LMHeadModel.from_pretrained(sys.argv[1], output_loading_info=True);"
        "assert not any(report.values()), report;"
        "assert 'shiftadd_transformers' not in sys.modules;"
        "torch.save(model(**torch.load(sys.argv[2])).logits, sys.argv[3])"
    )
    paths = [str(tmp_path / name) for name in ("plain", "inputs.pt", "logits.pt")]
    subprocess.run([sys.executable, "-W", "error", "-c", script, *paths], check=True, timeout=120, cwd=tmp_path)
    torch.testing.assert_close(torch.load(tmp_path / "logits.pt"), journey.logits, rtol=1e-4, atol=1e-5)
