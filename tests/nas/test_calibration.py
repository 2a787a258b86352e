"""Whole forwards from sums of a table: what is fitted, what is predicted, what is refused."""

import json
from contextlib import contextmanager
from itertools import count

import pytest
import torch
from hf.families import BY_NAME
from torch import nn

import search
from search import Space, choose, measure_costs
from search.calibration import Calibration, Timed, model_key
from search.timing import CALLS, calibrate, calibration_plans, fit
from shiftadd_transformers.cost.latency import LatencyTable

HERE = {"cpu": "A", "target": "haswell", "threads": 1}


def toy(rows=5):
    model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 4))
    space = Space.of(model, [choose(["dense", "shift"], "*")])
    inputs = {"input": torch.zeros(rows, 4)}
    return model, space, measure_costs(space, model, inputs), inputs


def table(machine=HERE):
    price = {"dense": 8.0, "shift": 3.0}
    rows = [
        {"spec": {"kind": kind}, "m": m, "k": k, "n": n, "us": us * m}
        for kind, us in price.items()
        for k, n in ((4, 6), (6, 4))
        for m in (1, 5, 7)
    ]
    return LatencyTable(rows, machine)


def test_overhead_and_factor_are_found():
    found = fit([Timed(str(x), x, 40 + 1.5 * x) for x in (10.0, 20.0, 70.0)])
    assert (found.overhead_us, found.factor, found.tau) == (pytest.approx(40), pytest.approx(1.5), 1.0)
    assert [found.error(timed) for timed in found.timed] == [pytest.approx(0, abs=1e-12)] * 3
    assert found.us(30.0) == pytest.approx(85)


def test_neither_is_negative():
    falling = fit([Timed("a", 10.0, 100.0), Timed("b", 20.0, 50.0)])
    assert falling.factor == 0
    assert falling.tau == 0  # all predictions are alike
    steep = fit([Timed("a", 10.0, 10.0), Timed("b", 20.0, 50.0)])
    assert steep.overhead_us == 0
    assert steep.factor > 0


def test_one_sum_fits_nothing():
    with pytest.raises(ValueError, match="at least two different sums"):
        fit([Timed("a", 10.0, 100.0), Timed("b", 10.0, 50.0)])


def test_the_summary_says_how_good_it_is():
    text = fit([Timed("dense", 100.0, 200.0), Timed("shift", 50.0, 100.0), Timed("random 1", 80.0, 200.0)]).summary()
    assert "dense" in text
    # No overhead, and 1.4 / 0.66 for the factor: off by 6, 6 and −15 %.
    assert "error 9.1% on average, 15.2% at most" in text
    assert "Kendall's τ 0.82 over 3 plans" in text


def test_plans_are_run_in_turns_and_the_median_counts():
    model, space, costs, inputs = toy()
    plans = calibration_plans(space, 3)
    running, reports, ticks = [], [], count()

    def clock():  # a call takes a millisecond, but in the second of three turns a second
        assert running == ["on"]
        tick = next(ticks)
        turn = tick // (2 * CALLS * len(plans))
        return tick * (1.0 if turn == 1 else 1e-3)

    @contextmanager
    def switched_on():
        running.append("on")
        yield
        running.append("off")

    found = calibrate(
        costs, table(), model, inputs, plans,
        machine=HERE, repeats=3, running=switched_on, clock=clock, report=lambda: reports.append(1),
    )  # fmt: skip
    assert running == ["on", "off"]
    assert len(reports) == 3 * len(plans)
    assert [timed.us for timed in found.timed] == [pytest.approx(1000)] * 3
    assert {timed.name: timed.table_us for timed in found.timed} == {"dense": 80.0, "shift": 30.0, "random 1": 55.0}
    assert found.machine == HERE
    assert all(type(layer) is nn.Linear for layer in model)


def test_packed_models_of_the_plans_run():
    model, space, costs, inputs = toy()
    seen = []
    hook = nn.modules.module.register_module_forward_hook(lambda module, args, out: seen.append(type(module).__name__))
    try:
        calibrate(costs, table(), model, inputs, calibration_plans(space, 2), repeats=1)
    finally:
        hook.remove()
    assert {"Linear", "PackedShiftLinear"} <= set(seen)


def test_plans_to_run_are_the_uniform_ones_and_random_ones():
    _, space, _, _ = toy()
    plans = calibration_plans(space, 4)
    assert list(plans) == ["dense", "shift", "random 1", "random 2"]
    assert len({plan.to_json() for plan in plans.values()}) == 4
    assert len(calibration_plans(space, 99)) == space.count()
    assert calibration_plans(space, 4) == plans


def test_the_objective_predicts_a_forward(tmp_path):
    _, space, costs, _ = toy()
    calibration = Calibration(100.0, 2.0, (Timed("dense", 80.0, 260.0),), 1.0, model_key(costs), HERE)
    path = tmp_path / "calibration.json"
    path.write_text(calibration.to_json())
    loaded = Calibration.load(path)
    assert loaded == calibration
    objective = search.latency(costs, table(), budget=200.0, calibration=loaded)
    assert [objective.measure(space.to_plan(c)) for c in ((0, 0), (1, 1))] == [260.0, 160.0]
    assert objective.name == "latency"
    assert objective.excess(300.0) == pytest.approx(0.5)


def test_what_belongs_elsewhere_is_refused():
    model, space, costs, inputs = toy()
    other = {**HERE, "cpu": "B"}
    calibration = Calibration(1.0, 1.0, (), 1.0, model_key(costs), HERE)
    with pytest.raises(ValueError, match=r"different machines \(cpu: A and B\)"):
        search.latency(costs, table(other), calibration=calibration)
    with pytest.raises(ValueError, match=r"not measured on this machine \(cpu: B and A\)"):
        calibrate(costs, table(other), model, inputs, calibration_plans(space), machine=HERE)
    with pytest.raises(
        ValueError, match=r"of Sequential with 2 sites, 5 rows .*not of Sequential with 2 sites, 7 rows"
    ):
        search.latency(toy(rows=7)[2], table(), calibration=calibration)


@pytest.mark.parametrize("content", ["", "[]", '{"format": 2}', '{"format": 1, "timed": []}'])
def test_other_files_are_refused(content, tmp_path):
    path = tmp_path / "other.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="is no calibration"):
        Calibration.load(path)


def test_the_file_says_where_and_how_well():
    data = json.loads(fit([Timed("a", 10.0, 100.0), Timed("b", 20.0, 150.0)], "a model", HERE).to_json())
    assert (data["machine"], data["model"], data["tau"]) == (HERE, "a model", 1.0)
    assert data["timed"][0] == {"name": "a", "table_us": 10.0, "us": 100.0}


def test_attentions_take_time():
    case = BY_NAME["vit"]
    model = case.build()
    space = Space.of(model, [choose(["softmax", "binary_linear"], role="attn.self")])
    costs = measure_costs(space, model, case.inputs())
    shapes = {(m.in_features, m.out_features, m.rows) for _, m in costs.work(space.to_plan((0, 0))).linears}
    layers = [{"spec": {"kind": "dense"}, "m": m, "k": k, "n": n, "us": 0.0} for k, n, m in shapes]
    size = {"batch": 2, "heads": 2, "head_dim": 8, "targets": 5, "sources": 5}
    cores = [{"spec": {"kind": kind}, **size, "us": us} for kind, us in (("softmax", 3.0), ("binary_linear", 10.0))]
    objective = search.latency(costs, LatencyTable(layers + cores))
    assert [objective.measure(space.to_plan(c)) for c in ((0, 0), (0, 1), (1, 1))] == [6.0, 13.0, 20.0]
    with pytest.raises(ValueError, match=r"binary_linear was not measured.*shiftadd profile search"):
        search.latency(costs, LatencyTable([*layers, cores[0]]))
