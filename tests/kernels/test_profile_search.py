"""`shiftadd profile search`: what a table lacks is measured, whole models are run, and both are written."""

import json
from types import SimpleNamespace

import pytest
import torch
from transformers import ViTConfig, ViTForImageClassification
from typer.testing import CliRunner

import search
from search import measure_costs
from search.calibration import Calibration, calibration_file
from shiftadd_transformers import BinaryLinearSpec, ShiftSpec, SoftmaxSpec
from shiftadd_transformers.cost.latency import LatencyTable
from tasks import cli
from tasks.errors import TaskError
from tasks.kernels.calibrating import lacking, measure
from tasks.search.config import SearchConfig
from tasks.search.space import make_space
from tvm_kernels import bridge

FAST = ShiftSpec(activation_bits=8)
CHOICES = (
    {"choices": ["softmax", "binary_linear"], "role": "attn.self"},
    {"choices": ["dense", FAST.to_dict()], "role": "mlp.*", "together": "all"},
)


@pytest.fixture(scope="module")
def subject():
    torch.manual_seed(0)
    model = ViTForImageClassification(
        ViTConfig(
            hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, image_size=8, patch_size=4
        )
    )
    return SimpleNamespace(model=model.eval(), inputs={"pixel_values": torch.zeros(1, 3, 8, 8)})


@pytest.fixture(scope="module")
def costs(subject):
    return measure_costs(make_space(settings(), subject.model), subject.model, subject.inputs)


def settings(**more):
    return SearchConfig(choices=CHOICES, **more)


def rows_of(sweep):
    return {(series.spec, *series.place().values()): len(series) for group in sweep.groups for series in group}


def test_what_a_table_lacks(costs):
    empty = lacking(costs.works.values(), LatencyTable([]), 3)
    found = rows_of(empty)
    dense = {key[1:] for key in found if key[0].kind == "dense"}
    assert dense == {(16, 16), (16, 24), (24, 16), (16, 2)}  # the head, which no choice concerns, takes time as well
    assert {key[1:] for key in found if key[0] == FAST} == {(16, 24), (24, 16)}
    assert {key for key in found if key[0].place == "attention"} == {
        (SoftmaxSpec(), 1, 2, 8),
        (BinaryLinearSpec(kernel_size=9), 1, 2, 8),
    }
    assert empty.size == 3 * sum(found.values())


def test_what_a_table_has_is_not_measured_again(costs):
    dense = {"spec": {"kind": "dense"}, "us": 1.0}
    some = [{**dense, "k": 16, "n": 24, "m": m} for m in (1, 64)]
    softmax = {"spec": {"kind": "softmax"}, "us": 1.0, "heads": 2, "head_dim": 8}
    some += [{**softmax, "targets": n, "sources": n} for n in (1, 64)]
    found = {key[:3] for key in rows_of(lacking(costs.works.values(), LatencyTable(some), 1))}
    assert not {key for key in found if key[0] == SoftmaxSpec()}
    assert {(key[0].kind, *key[1:]) for key in found if key[1:] == (16, 24)} == {("shift", 16, 24)}


def test_a_search_is_measured_and_predicted(subject, costs, tmp_path, capsys):
    output = tmp_path / "latency.json"
    measure(settings(), subject, output, plans=4, repeats=1, threads=1)
    shown = capsys.readouterr().out
    assert "predicted" in shown
    assert "over 4 plans" in shown
    assert not bridge.is_enabled()
    table, calibration = LatencyTable.load(output), Calibration.load(calibration_file(output))
    assert calibration.machine == table.machine
    assert table.machine["weights"] == "in cache"  # so small a model fits
    objective = search.latency(costs, table, calibration=calibration)
    dense = costs.space.to_plan(costs.space.uniform("dense"))
    assert objective.measure(dense) == pytest.approx(calibration.us(calibration.timed[0].table_us))

    before = json.loads(output.read_text())["rows"]
    measure(settings(), subject, output, plans=2, repeats=1, threads=1)
    assert json.loads(output.read_text())["rows"] == before
    assert len(Calibration.load(calibration_file(output)).timed) == 3  # all uniform plans, however few are asked for

    data = json.loads(output.read_text())
    data["machine"]["cpu"] = "another"
    output.write_text(json.dumps(data))
    with pytest.raises(TaskError, match=r"not measured on this machine \(cpu: another and"):
        measure(settings(), subject, output, plans=2, repeats=1, threads=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["digits", "--table", "latency.json"], "has no .search. table"),
        (["search-digits"], "say where the latency table is to be"),
        (["nowhere"], "no config file at nowhere"),
    ],
)
def test_mistakes_are_explained(arguments, message):
    result = CliRunner().invoke(cli.app, ["profile", "search", *arguments])
    assert isinstance(result.exception, TaskError)
    assert result.exception.args[0]
    with pytest.raises(TaskError, match=message):
        raise result.exception
