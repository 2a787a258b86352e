"""The command line of the vision task: one whole round, and every mistake one message."""

import re

import pytest
from typer.testing import CliRunner
from vision.toy import picture

from shiftadd_transformers import Plan
from tasks import cli
from tasks.errors import TaskError

TINY = [
    "data.max_train=60",
    "data.max_test=20",
    "data.max_validation=20",
    "model.hidden=16",
    "model.ffn=16",
    "model.layers=1",
    "train.max_steps=2",
    "train.eval_steps=2",
    "train.batch_size=16",
]


def invoke(*arguments):
    return CliRunner().invoke(cli.app, [str(a) for a in arguments])


def test_train_evaluate_predict(tmp_path):
    run = tmp_path / "run"
    trained = invoke("train", "digits-shift", *TINY, "--set", f"run_dir={run}")
    assert trained.exit_code == 0, trained.output
    assert len(re.findall(r"top-1 [\d.]+% \(95 % interval", trained.output)) == 2  # model and packed
    scored = invoke("evaluate", run, "--split", "validation", "--model", "packed")
    assert "20 images" in scored.output
    assert (run / "results" / "packed-validation.json").is_file()

    picture("red").save(tmp_path / "a.png")
    (tmp_path / "bad.png").write_bytes(b"nothing")
    done = invoke("predict", run, tmp_path / "a.png", "--top", "2")
    assert done.exit_code == 0
    assert re.fullmatch(r"\S+a\.png\t\d [\d.]+%\t\d [\d.]+%\n", done.stdout)
    mixed = invoke("predict", run / "packed", tmp_path)
    assert mixed.exit_code == 2
    assert "a.png\t" in mixed.stdout
    assert "bad.png" not in mixed.stdout
    assert "error: cannot read the image" in mixed.stderr


def test_compare(tmp_path):
    settings = [part for key in TINY for part in ("--set", key)]
    done = invoke("compare", "digits", "digits-shift", "--seeds", "1", "--folder", tmp_path, *settings)
    assert done.exit_code == 0, done.output
    assert [line.split()[0] for line in done.stdout.splitlines()[-4:-2]] == ["digits", "digits-shift"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "digits", "train.epoch=1"], "did you mean 'train.epochs'"),
        (["train", "digits", "data.source=hub"], "expected digits, imagefolder:PATH or hub:NAME"),
        (["train", "digits", "data.source=imagefolder:nowhere"], "no folder at nowhere"),
        (["train", "digits", "decode.beams=1"], "unknown key 'decode'"),
        (["train", "other.toml"], "there is no task 'vision'; known: image_classification, translation"),
        (["predict", "nowhere", "x.png"], "cannot load an image classifier from nowhere"),
        (["predict", "nowhere", "."], "no images in ."),
        (["compare", "digits", "reverse"], "compare is for image classification"),
        (["compare", "digits", "digits"], "two configs are called digits"),
        (["compare", "digit"], "no config file at digit"),
    ],
)
def test_mistakes(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.toml").write_text('task = "vision"\n')
    result = invoke(*arguments)
    assert isinstance(result.exception, TaskError)
    assert message in str(result.exception)


def test_options_of_translation_are_refused(trained):
    result = invoke("evaluate", trained.folder, "--beams", "2")
    assert "--beams is for translation" in str(result.exception)
    assert "no model 'packed'; it has: model" in str(invoke("evaluate", trained.folder, "--model", "packed").exception)


def test_a_plan_in_stages_is_shown_stage_by_stage(trained, tmp_path):
    rules, output = tmp_path / "rules.toml", tmp_path / "plan.json"
    stage = '[[plan.stages]]\nshare = 0.5\nrules = [{ role = "ROLE.*", op = "shift" }]\n'
    rules.write_text(stage.replace("ROLE", "attn") + stage.replace("ROLE", "mlp"))
    shown = invoke("plan", trained.folder / "model", rules, "--output", output).stdout
    assert re.findall(r"shift: (\d+) modules", shown) == ["8", "4"]
    assert len(Plan.from_json(output).converted) == 12
