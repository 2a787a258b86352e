"""Loading refuses what is not whole; saving leaves old files alone when it fails."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from hf.families import BY_NAME
from safetensors.torch import load_file, save_file
from transformers import AutoModel, BertForSequenceClassification, BertModel, LlamaForCausalLM

from shiftadd_transformers import ShiftAddConfig, ShiftSpec, convert_, load, make_plan, pack_, rule, save
from shiftadd_transformers.hf import folder_bytes

FAMILY = BY_NAME["bert"]
RULES = [rule(role="mlp.*", op="shift")]
WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(tmp_path):
    save(pack_(convert_(FAMILY.build(), RULES)), tmp_path / "model")
    return tmp_path / "model"


def edit_config(folder, change):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config["quantization_config"])
    path.write_text(json.dumps(config))


def test_a_missing_tensor_is_refused(folder):
    tensors = load_file(folder / WEIGHTS)
    del tensors["bert.encoder.layer.0.output.dense.weight_exponent"]
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})
    with pytest.raises(ValueError, match=r"1 missing keys \(bert.encoder.layer.0.output.dense.weight_exponent\)"):
        load(folder)


def test_a_tensor_too_many_is_refused(folder):
    save_file(load_file(folder / WEIGHTS) | {"extra": torch.zeros(1)}, folder / WEIGHTS, {"format": "pt"})
    with pytest.raises(ValueError, match=r"1 unexpected keys \(extra\)"):
        load(folder)


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_truncated_file_is_refused(folder, keep):
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[:keep])
    with pytest.raises(ValueError, match="damaged"):
        load(folder)


def test_no_weights_at_all_are_refused(folder):
    (folder / WEIGHTS).unlink()
    with pytest.raises(OSError, match=WEIGHTS):
        load(folder)


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(OSError, match="nowhere"):
        load(tmp_path / "nowhere")


def test_the_class_is_found_or_given(folder):
    assert type(load(folder)) is BertForSequenceClassification
    assert type(load(str(folder), BertForSequenceClassification)) is BertForSequenceClassification
    edit = json.loads((folder / "config.json").read_text())
    for names in ([], ["MyOwnModel"]):
        (folder / "config.json").write_text(json.dumps(edit | {"architectures": names}))
        with pytest.raises(ValueError, match="pass auto_class"):
            load(folder)


def test_another_class_is_refused(folder):
    with pytest.raises(ValueError, match=r"unexpected keys .*classifier.*auto_class"):
        load(folder, BertModel)


def test_dense_checkpoints_load_too(tmp_path):
    model = FAMILY.build()
    save(model, tmp_path)
    assert torch.equal(FAMILY.output(load(tmp_path)), FAMILY.output(model))
    with pytest.raises(ValueError, match="is not a converted checkpoint"):
        load(tmp_path, dequantize=True)


def test_converts_while_loading(tmp_path):
    save(FAMILY.build(), tmp_path)
    model = load(tmp_path, quantization_config=ShiftAddConfig(RULES, state="packed"))
    assert torch.equal(FAMILY.output(model), FAMILY.output(pack_(convert_(FAMILY.build(), RULES))))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.update(stat="packed"), "no key 'stat'; nearest: 'state'"),
        (lambda c: c.update(state="paked"), "'latent' or 'packed', not 'paked'"),
        (lambda c: c.pop("plan"), "either rules or a plan"),
        (lambda c: c["plan"].update(format_version=2), "plan format 2 is unknown"),
        (lambda c: c["plan"]["modules"].popitem(), "does not fit"),
        (
            lambda c: c["plan"]["modules"].update(
                {"bert.encoder.layer.0.attention.self.query": {"op": {"kind": "bcq"}, "role": "", "shape": [16, 16]}}
            ),
            "does not fit",
        ),
        (lambda c: next(iter(c["plan"]["modules"].values()))["op"].update(kind="shfit"), "nearest: 'shift'"),
        (lambda c: next(iter(c["plan"]["modules"].values()))["op"].update(bits=3), "does not fit"),
        (lambda c: next(iter(c["plan"]["modules"].values()))["op"].update(bit=3), "nearest: 'bits'"),
    ],
)
def test_a_config_that_does_not_fit_its_weights_is_refused(folder, change, said):
    edit_config(folder, change)
    with pytest.raises(ValueError, match=said):
        load(folder)


def test_a_converted_checkpoint_without_a_plan_is_refused(folder):
    def rules_only(config):
        config["rules"] = [r.to_dict() for r in RULES]
        del config["plan"]

    edit_config(folder, rules_only)
    with pytest.raises(ValueError, match="holds no plan"):
        load(folder)


def test_a_plan_for_another_model_is_refused(tmp_path):
    save(FAMILY.build(), tmp_path)
    plan = make_plan(BY_NAME["llama"].build(), RULES)
    with pytest.raises(ValueError, match=r"the plan \(for LlamaForCausalLM\) converts 'model.layers.0"):
        load(tmp_path, quantization_config=ShiftAddConfig(plan=plan))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "either rules or a plan"),
        ({"rules": RULES, "plan": {}}, "either rules or a plan"),
        ({"rules": RULES, "state": "dense"}, "state must be"),
        ({"rules": RULES, "rule": 1}, "no key 'rule'; nearest: 'rules'"),
        ({"rules": [{"role": "mlp", "operator": "shift"}]}, "no key 'operator'; nearest: 'op'"),
    ],
    ids=str,
)
def test_a_config_with_a_typo_is_refused(options, said):
    with pytest.raises(ValueError, match=said):
        ShiftAddConfig(**options)


def test_rules_that_match_nothing_are_refused_while_loading(tmp_path):
    save(FAMILY.build(), tmp_path)
    with pytest.raises(ValueError, match=r"rule 1 \(match='\*.fc3'\) matched no dense layer"):
        load(tmp_path, quantization_config=ShiftAddConfig([rule("*.fc3", "shift")]))


def test_a_nan_in_a_dense_checkpoint_is_refused(tmp_path):
    model = FAMILY.build()
    with torch.no_grad():
        model.bert.encoder.layer[1].output.dense.weight[0, 0] = float("nan")
    save(model, tmp_path)
    with pytest.raises(ValueError, match=r"layer.1.output.dense: .*NaN"):
        load(tmp_path, quantization_config=ShiftAddConfig(RULES))


def test_missing_class_for_a_head_is_said_by_load_not_filled(tmp_path):
    save(pack_(convert_(FAMILY.build(base=True), RULES)), tmp_path)
    with pytest.raises(ValueError, match=r"missing keys .*classifier"):
        load(tmp_path, BertForSequenceClassification)
    assert type(load(tmp_path, AutoModel)) is BertModel


# ---- saving


def test_saving_over_a_checkpoint_replaces_it(folder):
    other = pack_(convert_(FAMILY.build(seed=1), [rule(role="mlp.*", op=ShiftSpec(3))]))
    (folder / "notes.txt").write_text("kept")
    save(other, folder)
    assert torch.equal(FAMILY.output(load(folder)), FAMILY.output(other))
    assert (folder / "notes.txt").read_text() == "kept"
    assert not [p for p in folder.iterdir() if p.name.startswith(".saving")]


@pytest.mark.parametrize("first", ["1KB", "5GB"], ids=["sharded", "whole"])
def test_no_stale_weights_stay_behind(tmp_path, first):
    old, new = FAMILY.build(seed=1), FAMILY.build(seed=2)
    second = "5GB" if first == "1KB" else "1KB"
    save(old, tmp_path, max_shard_size=first)
    save(new, tmp_path, max_shard_size=second)
    assert torch.equal(FAMILY.output(load(tmp_path)), FAMILY.output(new))
    assert (tmp_path / WEIGHTS).exists() == (second == "5GB")
    assert (tmp_path / "model.safetensors.index.json").exists() == (second == "1KB")
    assert folder_bytes(tmp_path) == sum(p.stat().st_size for p in tmp_path.glob("*.safetensors"))


def test_companions_are_saved_beside_the_model(tmp_path):
    class Companion:
        def save_pretrained(self, path):
            Path(path, "words.txt").write_text("a b")

    save(FAMILY.build(), tmp_path, Companion())
    assert (tmp_path / "words.txt").read_text() == "a b"


def test_a_failing_companion_leaves_the_old_files(folder):
    class Failing:
        def save_pretrained(self, path):
            raise OSError(28, "No space left on device")

    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    with pytest.raises(OSError, match=r"could not save .*No space left.*what was there before is unchanged") as caught:
        save(FAMILY.build(seed=1), folder, Failing())
    assert caught.value.errno == 28
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_a_full_disk_leaves_the_old_files(folder):
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    script = textwrap.dedent("""
        import resource, sys
        from shiftadd_transformers import load, save, unpack_
        model = unpack_(load(sys.argv[1]))
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))  # the config fits, the weights do not
        try:
            save(model, sys.argv[1])
        except OSError as error:
            sys.exit(0 if "unchanged" in str(error) else f"said: {error}")
        sys.exit("saved in spite of the limit")
    """)
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    load(folder)


def test_a_path_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        save(FAMILY.build(), tmp_path / "file")


def test_a_tied_head_survives_where_the_plan_left_it(tmp_path):
    family = BY_NAME["gemma"]
    model = pack_(convert_(family.build(), [rule("*", "shift")]))
    save(model, tmp_path)
    again = load(tmp_path)
    assert again.lm_head.weight is again.model.embed_tokens.weight
    assert torch.equal(family.output(again), family.output(model))


def test_llama_with_a_converted_head(tmp_path):
    family = BY_NAME["llama"]
    model = family.build()
    convert_(model, make_plan(model, [rule("*", "shift")], protect=False))
    save(pack_(model), tmp_path)
    assert torch.equal(family.output(load(tmp_path, LlamaForCausalLM)), family.output(model))
