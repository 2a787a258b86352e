"""What a trained model says about images of all kinds, and what is said about images that cannot be used."""

import pytest
from transformers import pipeline
from vision.toy import class_folders, picture, small_config

from tasks.errors import TaskError
from tasks.image_classification.evaluate import evaluate_run
from tasks.image_classification.model import load_model
from tasks.image_classification.predict import predict
from tasks.image_classification.train import train


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
