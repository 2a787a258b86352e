"""Plans in stages: attention first, then the other layers, each with its part of the training."""

import json

import pytest
import torch
from vision.toy import interrupting, small_config

from shiftadd_transformers.layers import OperatorModule
from tasks.config import build, read_config, write_config
from tasks.errors import Interrupted, TaskError
from tasks.image_classification import train as training
from tasks.image_classification.config import ImageConfig
from tasks.image_classification.model import load_model
from tasks.image_classification.train import train

STAGES = [
    {"rules": [{"role": "attn.*", "op": {"kind": "shift", "bits": 4}}], "share": 0.4},
    {"rules": [{"role": "mlp.*", "op": {"kind": "shift", "bits": 4}}], "share": 0.6, "learning_rate": 1e-4},
]


def converted(model):
    return {name for name, module in model.named_modules() if isinstance(module, OperatorModule)}


def staged(folder, trained, **tables):
    model = {"pretrained": str(trained.folder / "model")}
    return small_config(folder, model=model, plan={"stages": STAGES, "distill": {}}, **tables)


def test_each_stage_converts_trains_and_saves(trained, tmp_path):
    run = train(staged(tmp_path / "run", trained), quiet=True)
    first, second = (load_model(run.folder / "stages" / n / "model")[0] for n in "12")
    assert {name.rpartition(".")[2] for name in converted(first)} == {"q_proj", "k_proj", "v_proj", "o_proj"}
    assert (
        converted(second)
        == converted(run.model)
        == converted(first) | {f"vit.layers.{i}.mlp.fc{j}" for i in (0, 1) for j in (1, 2)}
    )
    rows = json.loads((run.folder / "history.json").read_text())
    assert run.fit.steps == rows[-1]["steps"] == 10
    assert {(row["step"], row["stage"]) for row in rows if "eval_loss" in row} == {(4, 1), (9, 2), (10, 2)}
    packed, _ = load_model(run.folder / "packed")
    pixels = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(
            packed(pixel_values=pixels).logits, run.model.eval()(pixel_values=pixels).logits, rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("step", [2, 3])
def test_a_resumed_run_goes_on_in_its_stage(step, trained, tmp_path, monkeypatch):
    whole = train(staged(tmp_path / "whole", trained), quiet=True)
    with monkeypatch.context() as patched:
        # The callback serves both stages: stage 1 has 4 steps, stage 2 has 6.
        patched.setattr(training, "EachEpoch", interrupting(5 if step == 3 else step))
        with pytest.raises(Interrupted, match=r"stages/2/checkpoints" if step == 3 else r"stages/1/checkpoints"):
            train(staged(tmp_path / "parts", trained), quiet=True)
    run = train(staged(tmp_path / "parts", trained), resume=True, quiet=True)
    assert run.fit.steps == 10
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, run.model.state_dict()[name]), name


def test_the_config_of_stages_reads_back_equal(tmp_path):
    config = build(ImageConfig, {"plan": {"stages": STAGES}})
    write_config(config, tmp_path / "c.toml")
    assert read_config(ImageConfig, tmp_path / "c.toml") == config


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"stages": STAGES, "rules": [{"op": "shift"}]}, "both rules and stages"),
        ({"stages": STAGES[:1]}, "make 0.4; together they must make 1"),
        ({"stages": [{"share": 1.0}]}, "needs rules or a file"),
        ({"stages": [{**STAGES[0], "part": 1}]}, r"unknown key 'plan.stages\[1\].part'"),
        ({"stages": [{**STAGES[0], "share": 2.0}]}, "a share above 0 and at most 1"),
        ({"stages": [{**STAGES[0], "learning_rate": 0.0}]}, "learning_rate must be positive"),
        ({"stages": 3}, "plan.stages must be a list"),
    ],
)
def test_mistakes(plan, message):
    with pytest.raises(TaskError, match=message):
        build(ImageConfig, {"plan": plan})


def test_a_stage_whose_rules_find_nothing_left(trained, tmp_path):
    plan = {"stages": [{**STAGES[0], "share": 0.5}, {**STAGES[0], "share": 0.5}]}
    with pytest.raises(TaskError, match=r"\[plan\]: rule 1"):
        train(small_config(tmp_path / "run", plan=plan), quiet=True)
