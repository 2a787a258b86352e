"""Costs of plans: sums over sites equal what a converted model is counted to cost."""

from __future__ import annotations

import copy
import json
import random

import pytest
import torch
from hf.families import BY_NAME
from nas.toys import entangled, layers, preset
from torch import nn

import search
import shiftadd_transformers as sat
from search import CostTable, Space, WholeCosts, choose, measure_costs
from shiftadd_transformers.cost import count_ops
from shiftadd_transformers.cost.latency import LatencyTable

SPACES = {"marian": lambda: preset("marian"), "vit": lambda: preset("vit"), "entangled": entangled}


def family_of(name):
    return BY_NAME["marian" if name == "entangled" else name]


def packed(model, plan):
    return sat.pack_(sat.convert_(copy.deepcopy(model), plan))


@pytest.fixture(scope="module", params=SPACES)
def measured(request):
    torch.manual_seed(0)
    space, case = SPACES[request.param](), family_of(request.param)
    model = case.build()
    return space, case, model, measure_costs(space, model, case.inputs())


def test_sums_over_sites_are_what_is_counted(measured):
    space, case, model, costs = measured
    assert isinstance(costs, CostTable)
    rng = random.Random(4)
    for _ in range(6):
        plan = space.to_plan(space.sample(rng))
        report = count_ops(packed(model, plan), **case.inputs())
        total = costs.work(plan).row
        assert total.operations == report.total.operations
        assert (total.weight_bytes, total.activation_bytes) == (
            report.total.weight_bytes,
            report.total.activation_bytes,
        )
        assert search.energy(costs).measure(plan) == pytest.approx(report.energy().total_pj, rel=1e-12)
        assert search.multiplications(costs).measure(plan) == report.total.counts.multiply
        assert search.operations(costs).measure(plan) == report.total.counts.total


def test_stored_bytes_are_those_of_a_checkpoint(measured, tmp_path):
    space, _, model, costs = measured
    plan = space.to_plan(space.sample(random.Random(5)))
    sat.save(packed(model, plan), tmp_path)
    data = (tmp_path / "model.safetensors").read_bytes()
    header = int.from_bytes(data[:8], "little")
    tensors = [entry for name, entry in json.loads(data[8 : 8 + header]).items() if name != "__metadata__"]
    written = sum(end - start for start, end in (entry["data_offsets"] for entry in tensors))
    assert search.stored_bytes(costs).measure(plan) == written


def test_a_model_without_transformers_has_costs_too():
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(3)))
    space, inputs = layers(3, 4), {"input": torch.zeros(5, 4)}
    costs = measure_costs(space, model, inputs)
    plan = space.to_plan((0, 2, 3))
    assert costs.work(plan).row.operations == count_ops(packed(model, plan), **inputs).total.operations


def test_where_sums_are_wrong_each_plan_is_counted_whole():
    # Eager attention is computed by another function as soon as one attention of the model has a core of ours.
    case = BY_NAME["vit"]
    model = case.build()
    model.set_attn_implementation("eager")
    space = Space.of(model, [choose(["softmax", "adder_attention"], role="attn.self")])
    with pytest.warns(UserWarning, match="does not cost the same beside all other choices"):
        costs = measure_costs(space, model, case.inputs())
    assert isinstance(costs, WholeCosts)
    for candidate in space.every():
        plan = space.to_plan(candidate)
        report = count_ops(packed(model, plan), **case.inputs())
        assert search.energy(costs).measure(plan) == pytest.approx(report.energy().total_pj, rel=1e-12)


def test_what_was_not_measured_is_refused():
    model = nn.Sequential(nn.Linear(4, 4))
    costs = measure_costs(layers(1, 2), model, {"input": torch.zeros(1, 4)})
    with pytest.raises(ValueError, match="the cost of bcq at 0 was not measured"):
        costs.work(sat.make_plan(model, [sat.rule("*", "bcq")]))


def latency_rows(kinds, shapes):
    price = {"dense": 8.0, "shift": 3.0}
    return [{"spec": {"kind": kind}, "m": 5, "k": k, "n": n, "us": price[kind]} for kind in kinds for k, n in shapes]


def test_latency_is_read_layer_by_layer():
    model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 4))
    space = Space.of(model, [choose(["dense", "shift"], "*")])
    costs = measure_costs(space, model, {"input": torch.zeros(5, 4)})
    whole = LatencyTable(latency_rows(["dense", "shift"], [(4, 6), (6, 4)]))
    objective = search.latency(costs, whole, budget=12.0)
    assert [objective.measure(space.to_plan(c)) for c in ((0, 0), (0, 1), (1, 1))] == [16.0, 11.0, 6.0]
    assert objective.excess(15.0) == pytest.approx(0.25)
    with pytest.raises(ValueError, match=r"shift was not measured at k=6, n=4.*`shiftadd profile kernels`"):
        search.latency(
            costs, LatencyTable(latency_rows(["dense", "shift"], [(4, 6)]) + latency_rows(["dense"], [(6, 4)]))
        )


def test_projections_that_a_mixer_leaves_out_take_no_time():
    case = BY_NAME["marian"]
    model = case.build()
    space = Space.of(model, [choose(["softmax", sat.MixerSpec(kernel_size=3)], "encoder.*", role="attn.self")])
    costs = measure_costs(space, model, case.inputs())
    linears = [len(costs.work(space.to_plan(c)).linears) for c in ((0, 0), (1, 0), (1, 1))]
    assert linears[0] - linears[1] == linears[1] - linears[2] == 2
