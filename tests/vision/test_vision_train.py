"""From data to scores on ten steps: training, resuming, scoring, predicting, converting."""

import json

import pytest
import torch
from vision.toy import interrupting, small_config

from tasks.errors import Interrupted, TaskError
from tasks.image_classification import train as training
from tasks.image_classification.evaluate import evaluate_run
from tasks.image_classification.model import load_model
from tasks.image_classification.train import train
from tasks.training.checkpoints import checkpoints

AUGMENT = {"translate": 1.0, "rotate": 10.0, "mixup": 0.2}
SHIFT = {"rules": [{"match": "*", "op": {"kind": "shift", "bits": 4}}]}


def weights(folder):
    return load_model(folder)[0].state_dict()


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_run_and_its_scores(trained):
    folder = trained.folder
    scores = evaluate_run(folder, progress=False)
    written = json.loads((folder / "results" / "model-test.json").read_text())
    assert (written["top1"], written["images"]) == (scores.top1, 40)
    assert scores.low <= scores.top1 <= scores.high
    assert sum(row["images"] for row in written["classes"]) == 40
    lines = (folder / "results" / "model-test.tsv").read_text().splitlines()
    assert sum(line.split("\t")[1] == line.split("\t")[2] for line in lines) == round(scores.top1 * 40)
    assert "preprocessor_config.json" in {path.name for path in (folder / "model").iterdir()}
    assert evaluate_run(folder / "model", split="validation", progress=False, report=False).images == 20


def test_the_best_weights_are_kept_not_the_last(trained):
    """A ViT is saved under other names than it has; the trainer must find the best checkpoint all the same."""
    rows = json.loads((trained.folder / "history.json").read_text())
    losses = {row["step"]: row["eval_loss"] for row in rows if "eval_loss" in row}
    assert rows[-1]["validation_loss"] == min(losses.values())
    kept = checkpoints(trained.folder / "checkpoints")
    from safetensors.torch import load_file

    best = load_file(kept[[5, 10].index(min(losses, key=losses.get))] / "model.safetensors")
    assert equal(best, weights(trained.folder / "model"))


def test_an_overshooting_training_goes_back_to_its_best(tmp_path):
    run = train(small_config(tmp_path / "run", train={"learning_rate": 0.5, "schedule": "constant"}), quiet=True)
    from safetensors.torch import load_file

    states = {path.name: load_file(path / "model.safetensors") for path in checkpoints(run.folder / "checkpoints")}
    rows = json.loads((run.folder / "history.json").read_text())
    losses = {f"checkpoint-{row['step']}": row["eval_loss"] for row in rows if "eval_loss" in row}
    assert equal(states[min(losses, key=losses.get)], run.model.state_dict())


def test_interrupted_and_resumed_equals_uninterrupted(tmp_path, monkeypatch):
    # 20 steps are two and a half epochs, so that order and augmentation of a resumed epoch are tested, too.
    settings = {"train": {"max_steps": 20, "eval_steps": 10}, "augment": AUGMENT, "model": {"dropout": 0.1}}
    train(small_config(tmp_path / "whole", **settings), quiet=True)
    with monkeypatch.context() as patched:
        patched.setattr(training, "EachEpoch", interrupting(13))
        with pytest.raises(Interrupted, match="stopped at step 13"):
            train(small_config(tmp_path / "parts", **settings), quiet=True)
    run = train(small_config(tmp_path / "parts", **settings), resume=True, quiet=True)
    assert run.fit.steps == 20
    assert equal(weights(tmp_path / "whole" / "model"), weights(tmp_path / "parts" / "model"))


def test_seeds_differ_and_repeat(tmp_path, trained):
    again = train(small_config(tmp_path / "again"), quiet=True)
    other = train(small_config(tmp_path / "other", seed=1), quiet=True)
    assert equal(again.model.state_dict(), trained.model.state_dict())
    assert not equal(other.model.state_dict(), trained.model.state_dict())


def test_packed_equals_latent(tmp_path):
    run = train(small_config(tmp_path / "run", plan=SHIFT), quiet=True)
    latent, packed = (
        evaluate_run(run.folder, model=name, progress=False, report=False) for name in ("model", "packed")
    )
    assert latent.top1 == packed.top1
    pixels = torch.randn(4, 3, 8, 8)
    with torch.no_grad():
        logits = [load_model(run.folder / name)[0](pixel_values=pixels).logits for name in ("model", "packed")]
    torch.testing.assert_close(*logits, rtol=1e-4, atol=1e-5)


def test_a_dense_model_teaches(trained, tmp_path):
    config = small_config(
        tmp_path / "run", model={"pretrained": str(trained.folder / "model")}, plan={**SHIFT, "distill": {"alpha": 0.9}}
    )
    run = train(config, quiet=True)
    assert (run.folder / "packed" / "preprocessor_config.json").is_file()


def test_there_must_be_a_teacher(tmp_path):
    with pytest.raises(TaskError, match=r"plan.distill needs a teacher"):
        train(small_config(tmp_path / "run", plan={**SHIFT, "distill": {}}), quiet=True)
