"""`shiftadd search`: one command from a config to a front of plans that train, pack and run."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from typer.testing import CliRunner
from vision.toy import small_config

from search import Front
from shiftadd_transformers import hf
from tasks import cli
from tasks.config import build, to_tables
from tasks.errors import Interrupted, TaskError
from tasks.image_classification.config import ImageConfig
from tasks.search import studying
from tasks.search.steps import join_search, run_search
from tasks.search.training import Retraining, retrain
from tasks.training.folder import is_finished

CHOICES = (
    {"role": "attn.self", "choices": ["softmax", {"kind": "binary_linear", "kernel_size": 3}]},
    {"match": "*", "choices": ["dense", "shift", {"kind": "shift", "terms": 2}], "together": "layer"},
    {"widths": [16, 32]},
)
SEARCH = {
    "choices": CHOICES,
    "evaluations": 24,
    "population": 6,
    "random_seeds": 1,
    "finalists": 1,
    "workers": 1,
    "supernet": {"randoms": 1},
    "trust": {"plans": 3, "least": -1.0},
}


def search_config(folder, **settings):
    return small_config(folder, train={"max_steps": 6, "eval_steps": 3}, search={**SEARCH, **settings})


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A finished search; not to be changed."""
    folder = tmp_path_factory.mktemp("searched") / "run"
    return folder, run_search(search_config(folder), quiet=True)


def test_it_leaves_a_front_and_a_report(searched):
    folder, report = searched
    front = Front.from_json(folder / "front.json")
    assert len(front.points) == len(report["front"]) >= 1
    assert [o.name for o in front.objectives] == ["validation loss", "energy (asic45)"]
    assert json.loads((folder / "search.json").read_text()) == report
    assert len(report["points"]) == len({tuple(p["candidate"]) for p in report["points"]}) == 24
    assert {r["name"] for r in report["references"]} >= {"dense", "shift"}
    page = (folder / "report.html").read_text()
    assert all(f"#{number}" in page for number in range(len(front.points)))


def test_it_says_how_far_the_supernet_is_to_be_believed(searched):
    folder, report = searched
    trust = report["trust"]
    assert len(trust["plans"]) == 3
    assert -1 <= trust["tau"] <= 1
    assert all((folder / "trust" / str(n) / "model" / "config.json").is_file() for n in range(3))


def test_the_best_plans_are_trained_beside_dense_and_uniform_ones(searched):
    _, report = searched
    rows = {row["name"]: row for row in report["retrained"]}
    assert list(rows) == ["dense", "all shift", "best at the energy of all shift", "best at 0.5 of the dense energy"]
    assert all(row["steps"] == 6 and 0 <= row["quality"]["top-1"] <= 100 for row in rows.values())
    energies = {name: row["energy_pj"] for name, row in rows.items()}
    assert energies["best at the energy of all shift"] <= energies["all shift"]
    assert energies["best at 0.5 of the dense energy"] <= 0.5 * energies["dense"]
    assert rows["dense"]["candidate"] is None


def test_a_plan_of_the_front_trains_packs_and_runs_on_kernels(searched, tmp_path):
    tvm_kernels = pytest.importorskip("tvm_kernels")
    folder, report = searched
    run = tmp_path / "run"
    number = len(report["front"]) - 1  # the cheapest is converted most
    tables = [f"{k}={v}" for k, v in (("run_dir", run), ("train.max_steps", 2), ("search", "none"))]
    result = CliRunner().invoke(
        cli.app, ["train", str(folder / "config.toml"), *tables, "--plan", f"{folder / 'front.json'}#{number}"]
    )
    assert result.exit_code == 0, result.output
    assert is_finished(run, packed=True)
    packed = hf.load(run / "packed").eval()
    plan = Front.from_json(folder / "front.json").points[number].plan
    assert packed.config.quantization_config.plan.converted == plan.converted
    pixels = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        expected = packed(pixels).logits
        with tvm_kernels.enabled():
            torch.testing.assert_close(packed(pixels).logits, expected, rtol=1e-3, atol=1e-3)


def test_the_same_command_goes_on_where_it_stopped(searched, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    config = search_config(folder, trust={"plans": 0}, at=())
    steps_seen = []

    def stopping(point):
        steps_seen.append(point)
        if len(steps_seen) == 5:
            raise KeyboardInterrupt

    evolve = studying.evolve
    monkeypatch.setattr(studying, "evolve", lambda *a, **k: evolve(*a, **{**k, "after": stopping}))
    with pytest.raises(Interrupted, match="recorded"):
        run_search(config, quiet=True)
    monkeypatch.setattr(studying, "evolve", evolve)
    with pytest.raises(TaskError, match="--resume"):
        run_search(config, quiet=True)
    report = run_search(config, resume=True, quiet=True)
    _, uninterrupted = searched
    assert [p["candidate"] for p in report["points"]] == [p["candidate"] for p in uninterrupted["points"]]
    for mine, other in zip(report["points"], uninterrupted["points"], strict=True):
        assert mine["scores"] == pytest.approx(other["scores"])
    assert report["retrained"] == []
    assert report["trust"] is None


def test_trainings_in_processes_of_their_own(searched, tmp_path):
    folder, _ = searched
    config = search_config(folder, workers=2)
    runs = [
        Retraining(name, tmp_path / name, folder / plan, 0, share=0.4, score=False)
        for name, plan in (("first", "trust/0.json"), ("broken", "trust/none.json"))
    ]
    told = []
    with pytest.raises(TaskError, match=r"training broken failed: error: there is no plan.*broken\.log"):
        retrain(runs, config, told.append)
    assert is_finished(tmp_path / "first", packed=True)
    assert "first" in told[0]
    retrain(runs[:1], config, told.append)  # nothing is left to do
    assert len(told) == 1


def test_a_finished_search_is_only_read(searched, monkeypatch):
    folder, report = searched
    monkeypatch.setattr("tasks.search.training._train_supernet", None)
    monkeypatch.setattr("tasks.search.training._here", None)
    again = run_search(search_config(folder), resume=True, quiet=True)
    assert again == report


def test_another_process_joins(searched, tmp_path):
    folder, report = searched
    joined = join_search(search_config(folder), quiet=True)
    assert [list(p.candidate) for p in joined.points] == [p["candidate"] for p in report["points"]]
    with pytest.raises(TaskError, match="no trained supernet"):
        join_search(search_config(tmp_path), quiet=True)


def test_two_workers_share_one_study(tmp_path):
    """Each evaluates plans of its own; together they find what one would have evaluated."""
    config = search_config(tmp_path / "run", trust={"plans": 0}, at=(), random_seeds=0, evaluations=10)
    run_search(config, quiet=True)
    for name in ("study.journal", "scores.jsonl"):
        (tmp_path / "run" / name).unlink()
    code = "import sys; from tasks.dispatch import read_task_config; from tasks.search.steps import join_search; "
    code += "join_search(read_task_config(sys.argv[1]), quiet=True)"
    workers = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "run" / "config.toml")]) for _ in range(2)]
    assert [worker.wait(timeout=240) for worker in workers] == [0, 0]
    report = run_search(config, resume=True, quiet=True)
    assert len({tuple(point["candidate"]) for point in report["points"]}) == len(report["points"]) == 10


def test_another_search_in_the_same_folder_is_refused(searched):
    folder, _ = searched
    with pytest.raises(TaskError, match="another search"):
        run_search(search_config(folder, evaluations=30), resume=True, quiet=True)


def test_a_budget_that_nothing_meets_names_the_closest_plan(tmp_path):
    config = search_config(tmp_path / "run", budgets={"energy": 1.0}, trust={"plans": 0}, evaluations=6)
    with pytest.raises(TaskError, match=r"no plan is within the budgets.*closest"):
        run_search(config, quiet=True)
    assert "closest" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"choices": ()}, "preset"),
        ({"budgets": {"latency": 1.0}}, "none of the costs"),
        ({"costs": ("latency",)}, "latency_table"),
        ({"trust": {"plans": 1}}, "at least 2"),
        ({"at": ("0",)}, "no part of"),
        ({"evaluations": 0}, "must not be"),
        ({"sizes": True}, "widths"),
    ],
)
def test_mistakes_in_the_table_are_told(tmp_path, settings, message):
    with pytest.raises(TaskError, match=message):
        search_config(tmp_path, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"quality": "bleu"}, "does not have"),
        ({"choices": ({"role": "attn.q", "choices": ["dense", "shfit"]},)}, "shift"),
        ({"choices": ({"match": "*.fc9", "choices": ["dense", "shift"]},)}, "fc9"),
        ({"at": ("adder",)}, "neither"),
    ],
)
def test_what_does_not_fit_the_model_is_told(tmp_path, settings, message):
    fast = {"trust": {"plans": 0}, "random_seeds": 0, "evaluations": 2, "supernet": {"share": 0.2, "randoms": 0}}
    with pytest.raises(TaskError, match=message):
        run_search(search_config(tmp_path / "run", **fast, **settings), quiet=True)


def test_a_config_without_a_search_is_told(tmp_path):
    with pytest.raises(TaskError, match=r"\[search\]"):
        run_search(small_config(tmp_path), quiet=True)


def test_the_config_survives_its_file(searched):
    folder, _ = searched
    config = search_config(folder)
    assert build(ImageConfig, to_tables(config)) == config


@pytest.mark.parametrize(
    ("place", "message"),
    [("nothing.json", "there is no plan"), ("front.json", "say which"), ("front.json#99", "say which")],
)
def test_a_plan_that_is_not_there_is_told(searched, tmp_path, place, message):
    folder, _ = searched
    result = CliRunner().invoke(
        cli.app, ["train", str(folder / "config.toml"), f"run_dir={tmp_path}", "--plan", str(folder / place)]
    )
    assert isinstance(result.exception, TaskError)
    assert message in str(result.exception)
