"""Comparing configs over seeds: what is there is not done again, and the numbers are those of the runs."""

import json

import pytest
from vision.toy import small_config

from tasks.errors import TaskError
from tasks.image_classification import train as training
from tasks.image_classification.compare import Variant, cells_of, run_comparison, table

SHIFT = {"rules": [{"match": "*", "op": {"kind": "shift", "bits": 4}}]}
QUICK = {"max_steps": 2, "eval_steps": 2}


def variants(**tables):
    return [
        Variant("dense", small_config("unused", train=QUICK)),
        Variant("shift", small_config("unused", train=QUICK, plan=SHIFT, **tables)),
    ]


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compared")
    return folder, run_comparison(variants(), 2, folder, quiet=True)


def test_rows_are_those_of_the_runs(compared):
    folder, report = compared
    dense, shift = report["variants"]
    scores = {
        (name, seed): json.loads((folder / name / str(seed) / "results" / f"{model}-test.json").read_text())["top1"]
        for name, model in (("dense", "model"), ("shift", "packed"))
        for seed in (0, 1)
    }
    assert shift["top1"] == pytest.approx((scores["shift", 0] + scores["shift", 1]) / 2)
    assert 0 <= shift["top5"] <= 1
    assert shift["top5_half"] >= 0
    assert shift["difference"] == pytest.approx(shift["top1"] - dense["top1"])
    assert (dense["difference"], dense["difference_half"]) == (0, 0)
    assert dense["operations"]["shift"] == 0 < shift["operations"]["shift"]
    assert shift["operations"]["multiply"] < dense["operations"]["multiply"]
    assert shift["energy"]["total_pj"] < dense["energy"]["total_pj"]
    assert json.loads((folder / "compare.json").read_text()) == report


def test_the_page_and_the_text_show_every_row(compared):
    folder, report = compared
    page, text = (folder / "compare.html").read_text(), table(report)
    for row in report["variants"]:
        assert row["name"] in page
        for cell in cells_of(row):
            assert cell in page
            assert cell in text
    assert "2 seeds, 40 test images" in text


def test_what_is_there_is_not_trained_again(compared, monkeypatch):
    folder, report = compared
    trained = []
    real = training.train
    monkeypatch.setattr(training, "train", lambda config, **kwargs: trained.append(config) or real(config, **kwargs))
    assert run_comparison(variants(), 2, folder, quiet=True) == report
    assert trained == []
    more = run_comparison(variants(), 3, folder, quiet=True)
    assert [(config.seed, config.plan is None) for config in trained] == [(2, True), (2, False)]
    assert more["variants"][0]["runs"][:2] == report["variants"][0]["runs"]


def test_another_config_under_the_same_name_is_refused(compared):
    with pytest.raises(TaskError, match=r"holds a run of another config .differs in model."):
        run_comparison(variants(model={"hidden": 8}), 2, compared[0], quiet=True)


def test_only_the_same_images_can_be_compared(tmp_path):
    other = [*variants(), Variant("more", small_config("unused", data={"max_test": 30}))]
    with pytest.raises(TaskError, match=r"differ in \[data\]"):
        run_comparison(other, 1, tmp_path, quiet=True)


def test_one_seed_has_no_interval(tmp_path):
    report = run_comparison(variants()[:1], 1, tmp_path, quiet=True)
    assert report["variants"][0]["top1_half"] is None
    assert "±" not in table(report).splitlines()[1]
