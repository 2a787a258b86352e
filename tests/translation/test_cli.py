"""The command line: exit codes, messages, and one whole round."""

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from shiftadd_transformers import Plan
from tasks import cli
from tasks.errors import Interrupted, TaskError

TINY = [
    "model.d_model=16",
    "model.ffn=16",
    "model.heads=2",
    "model.encoder_layers=1",
    "model.decoder_layers=1",
    "train.max_steps=4",
    "train.eval_steps=2",
    "train.threads=1",
    "decode.max_length=8",
]


def invoke(*arguments, **kwargs):
    return CliRunner().invoke(cli.app, [str(a) for a in arguments], **kwargs)


def test_train_evaluate_translate(tmp_path, reverse_file):
    run = tmp_path / "run"
    trained = invoke("train", "reverse", f"data.source={reverse_file}", *TINY, "--set", f"run_dir={run}")
    assert trained.exit_code == 0, trained.output
    assert "BLEU" in trained.output
    assert "|tok:13a|" in trained.output
    assert invoke("evaluate", run, "--beams", "2", "--split", "validation").exit_code == 0
    assert (run / "results" / "model-validation-beam2.json").is_file()
    assert len(invoke("translate", run, "ab cd", "ef").stdout.splitlines()) == 2
    assert len(invoke("translate", run, input="ab\n\ncd\n").stdout.splitlines()) == 3
    (tmp_path / "in.txt").write_text("ab cd\n")
    assert len(invoke("translate", run / "model", "--file", tmp_path / "in.txt").stdout.splitlines()) == 1
    show_plan(run / "model", tmp_path)


def show_plan(model, folder):
    rules, output = folder / "rules.toml", folder / "plan.json"
    rules.write_text('[[plan.rules]]\nrole = "mlp.*"\nop = "shift"\n')
    assert "shift: 4 modules" in invoke("plan", model, rules, "--output", output).stdout
    assert len(Plan.from_json(output).converted) == 4
    rules.write_text('[[plan.rules]]\nmatch = "*.fc3"\nop = "shift"\n')
    assert "nearest: '*.fc" in str(invoke("plan", model, rules).exception)
    rules.write_text("[plan]\n")
    assert "no [[plan.rules]]" in str(invoke("plan", model, rules).exception)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "reverse", "train.epoch=1"], "did you mean 'train.epochs'"),
        (["train", "revers"], "no config file at revers"),
        (
            ["train", "jsonl", "data.source=missing.jsonl", "run_dir=nowhere/run"],
            "no data file at missing.jsonl",
        ),
        (["evaluate", "nowhere"], "not a run folder"),
        (["evaluate", "nowhere", "--split", "train"], "--split must be test or validation"),
        (["translate", "nowhere", "hello"], "cannot load a translation model from nowhere"),
        (["translate", "nowhere", "--file", "missing.txt"], "no file missing.txt"),
        (["translate", "nowhere", "hello", "--file", "x"], "not both"),
    ],
)
def test_mistakes(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = invoke(*arguments)
    assert isinstance(result.exception, TaskError)
    assert message in str(result.exception)


@pytest.mark.parametrize(("error", "code"), [(TaskError("wrong key"), 2), (Interrupted("stopped"), 130)])
def test_errors_are_one_message(error, code, monkeypatch, capsys):
    def broken():
        raise error

    monkeypatch.setattr(cli, "app", broken)
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == code
    captured = capsys.readouterr().err
    assert str(error) in captured
    assert "Traceback" not in captured


def test_interrupt_prints_the_command_that_resumes(monkeypatch, tmp_path):
    def stopped(config, resume, overwrite):
        raise Interrupted("stopped at step 3")

    monkeypatch.setattr("tasks.translation.train.train", stopped)
    result = invoke("train", "jsonl", "data.source=a.jsonl", "--set", f"run_dir={tmp_path}")
    assert f"shiftadd train jsonl data.source=a.jsonl run_dir={tmp_path} --resume" in str(result.exception)


def test_configs_are_listed():
    listed = invoke("configs").stdout
    assert "gettext_en_de" in listed
    assert "reverse" in listed


def test_help_needs_no_torch():
    code = "import sys, tasks.cli, tasks.config, tasks.translation.config; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
