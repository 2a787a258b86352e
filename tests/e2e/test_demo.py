"""The demo, shortened: every step runs on real data, and what it writes is what the packed model does."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import tvm_kernels
from search import Front
from tasks.demo import HYBRID_RULES, DemoConfig, run_demo, summary
from tasks.errors import TaskError
from tasks.translation.evaluate import evaluate_run

# Half a minute of training leaves many features dead, and says so.
pytestmark = pytest.mark.filterwarnings("ignore:.* of the features of .* do not vary over a batch")


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    config = DemoConfig(minutes=0.5, folder=str(tmp_path_factory.mktemp("demo")))
    return config, run_demo(config, quiet=True)


def test_packed_scores_what_latent_scores(demo):
    _, report = demo
    rows = {row["name"]: row for row in report["models"]}
    assert list(rows) == ["dense", "latent", "packed"]
    assert abs(rows["packed"]["bleu"] - rows["latent"]["bleu"]) <= 0.05
    assert all(row["bleu_signature"].startswith("nrefs:1") for row in rows.values())
    assert rows["packed"]["bytes"] < 0.75 * rows["latent"]["bytes"]


def test_kernels_score_what_pytorch_scores(demo):
    """The packed model translates the same sentences alike on compiled kernels; floats may round otherwise."""
    config, report = demo
    with tvm_kernels.enabled():
        scores = evaluate_run(Path(config.folder, "hybrid"), model="packed", progress=False)
    packed = next(row for row in report["models"] if row["name"] == "packed")
    assert scores.bleu_signature == packed["bleu_signature"]
    assert abs(scores.bleu - packed["bleu"]) <= 0.05


def test_costs_are_those_of_the_plan(demo):
    _, report = demo
    dense, latent, packed = (row["operations"] for row in report["models"])
    assert dense["shift"] == 0 < packed["shift"]
    assert packed["multiply"] < dense["multiply"] / 2
    assert packed == latent
    energy = report["models"][-1]["energy"]
    assert energy["total_uj"] == pytest.approx(energy["compute_uj"] + energy["memory_uj"])
    assert list(report["baselines"]) == ["dense fp32", "dense fp16", "dense int8", "dense int4", "packed"]


def test_the_search_leaves_plans_that_are_cheaper_than_dense(demo):
    config, report = demo
    front = Front.from_json(Path(config.folder, "search", "front.json"))
    assert [dict(point.scores) for point in front.points] == [row["scores"] for row in report["search"]]
    energies = [point.scores["energy (asic45)"] for point in front.points]
    assert min(energies) < 0.5e6 * report["baselines"]["dense fp32"]["energy"]["total_uj"]
    assert Path(config.folder, "search", "report.html").is_file()


def test_report_stands_alone(demo):
    config, report = demo
    folder = Path(config.folder)
    page = folder.joinpath("report.html").read_text()
    assert json.loads(folder.joinpath("report.json").read_text())["models"] == report["models"]
    assert "<svg" in page
    assert not re.search(r'(?:src|href)="(?!#|http://www.w3.org)', page)
    assert report["samples"][0]["source"].split()[0] in page
    assert "packed" in summary(report)


def test_the_same_command_goes_on_and_another_is_refused(demo):
    config, report = demo
    assert run_demo(config, quiet=True)["models"] == report["models"]
    with pytest.raises(TaskError, match="--fresh"):
        run_demo(DemoConfig(minutes=1, folder=config.folder), quiet=True)
    with pytest.raises(TaskError, match="--minutes"):
        DemoConfig(minutes=0)


def test_rules_use_every_kind_that_the_demo_promises():
    kinds = {rule["op"]["kind"] for rule in HYBRID_RULES}
    assert kinds == {"dense", "shift", "adder"}
