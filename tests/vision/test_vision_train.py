"""From data to scores on ten steps: training, resuming, scoring, predicting, converting."""

import json

import pytest
import torch
from transformers import pipeline
from vision.toy import class_folders, interrupting, picture, small_config

from tasks.errors import Interrupted, TaskError
from tasks.image_classification import train as training
from tasks.image_classification.evaluate import evaluate_run
from tasks.image_classification.model import load_model
from tasks.image_classification.predict import predict
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


def test_it_learns_colours(folders, tmp_path):
    config = small_config(
        tmp_path / "run",
        data={"source": f"imagefolder:{folders}"},
        model={"image_size": 8, "patch": 4},
        train={"max_steps": 40, "eval_steps": 20, "learning_rate": 1e-2, "batch_size": 8},
    )
    run = train(config, quiet=True)
    assert evaluate_run(run.folder, progress=False).top1 == 1.0
    files = [*sorted(folders.glob("*/*_1.png")), folders / "none.png"]
    found = list(predict(run.model, run.processor, files))
    assert [p.classes[0][0] for p in found[:3]] == ["blue", "green", "red"]
    assert sum(share for _, share in found[0].classes) == pytest.approx(1.0, abs=1e-5)
    assert "none.png" in found[3].error


def test_a_pipeline_sees_what_the_task_sees(trained, tmp_path):
    path = tmp_path / "digit.png"
    trained.corpus.test.image(0).save(path)
    model, processor = load_model(trained.folder / "model")
    ours = next(iter(predict(model, processor, [path], top=10)))
    stock = pipeline("image-classification", model=str(trained.folder / "model"), top_k=10)(str(path))
    assert [row["label"] for row in stock] == [name for name, _ in ours.classes]
    assert [row["score"] for row in stock] == pytest.approx([share for _, share in ours.classes], abs=1e-5)


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


def test_images_of_several_sizes_need_a_size(tmp_path):
    for name, size in (("blue", (20, 12)), ("red", (30, 16))):
        class_folders(tmp_path / "odd", 10, size, classes=(name,))
    data = {"source": f"imagefolder:{tmp_path / 'odd'}"}
    with pytest.raises(TaskError, match=r"20 x 12 to 30 x 16 pixels; set model.image_size .* for example 30"):
        train(small_config(tmp_path / "run", data=data), quiet=True)
    run = train(small_config(tmp_path / "sized", data=data, model={"image_size": 12, "patch": 4}), quiet=True)
    assert run.model.config.image_size == 12


def test_a_damaged_training_image_is_named(folders, tmp_path):
    (folders / "red" / "red_test_3.png").write_bytes(b"nothing")
    config = small_config(
        tmp_path / "run", data={"source": f"imagefolder:{folders}", "test_fraction": 0.1, "max_train": None}
    )
    with pytest.raises(TaskError, match=r"cannot read the image .*red_test_3.png"):
        train(config, quiet=True)


def test_a_picture_of_any_kind_is_classified(trained, tmp_path):
    for name, image in {
        "grey": picture("red").convert("L"),
        "palette": picture("red").convert("P"),
        "clear": picture("red").convert("RGBA"),
        "wide": picture("red", size=(50, 3)),
        "point": picture("red", size=(1, 1)),
    }.items():
        image.save(tmp_path / f"{name}.png")
    found = list(predict(trained.model, trained.processor, sorted(tmp_path.glob("*.png"))))
    assert len(found) == 5
    assert not any(prediction.error for prediction in found)
