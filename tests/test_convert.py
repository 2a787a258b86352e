"""The four verbs on plain modules: values survive, identities survive, and a refusal changes nothing."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from shiftadd_transformers import (
    AdderSpec,
    BcqSpec,
    Plan,
    ShiftAddSpec,
    ShiftSpec,
    convert_,
    make_plan,
    pack_,
    revert_,
    rule,
    unpack_,
)
from shiftadd_transformers.layers import LatentModule, OperatorModule, PackedModule

LINEAR = [ShiftSpec(), ShiftSpec(4, 2, group_size=5), ShiftSpec(parametrization="ps"), BcqSpec()]
CURVED = [AdderSpec(), AdderSpec(None), ShiftAddSpec()]


def model(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(10, 12), nn.GELU(), nn.Sequential(nn.Linear(12, 12, bias=False)), Conv1D(7, 12))


def x():
    return torch.randn(3, 10, generator=torch.Generator().manual_seed(1))


def state(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def unchanged(module, before):
    now = module.state_dict()
    return before.keys() == now.keys() and all(torch.equal(before[k], now[k]) for k in now)


def kinds(module, kind):
    return [name for name, part in module.named_modules() if isinstance(part, kind)]


@pytest.mark.parametrize("spec", LINEAR + CURVED, ids=str)
def test_there_and_back(spec):
    net = convert_(model(), [rule("*", spec)])
    assert kinds(net, LatentModule) == ["0", "2.0", "3"]
    y = net(x())
    assert kinds(pack_(net), PackedModule) == ["0", "2.0", "3"]
    assert torch.equal(net(x()), y)
    assert kinds(unpack_(net), LatentModule) == ["0", "2.0", "3"]
    assert torch.equal(net(x()), y)
    assert torch.equal(pack_(net)(x()), y)


@pytest.mark.parametrize("spec", LINEAR, ids=str)
@pytest.mark.parametrize("state_", [convert_, lambda *a: pack_(convert_(*a))], ids=["latent", "packed"])
def test_revert_restores_classes_and_function(spec, state_):
    net = state_(model(), [rule("*", spec)])
    y = net(x())
    revert_(net)
    assert kinds(net, OperatorModule) == []
    assert [type(net[0]), type(net[2][0]), type(net[3])] == [nn.Linear, nn.Linear, Conv1D]
    assert net[3].nf == 7
    assert [tuple(net[i].weight.shape) for i in (0, 3)] == [(12, 10), (12, 7)]
    assert net[2][0].bias is None
    torch.testing.assert_close(net(x()), y)
    assert all(p.requires_grad for p in net.parameters())


@pytest.mark.parametrize("spec", CURVED, ids=str)
def test_revert_refuses_what_no_dense_layer_computes(spec):
    net = convert_(model(), [rule("re:0", "shift"), rule("re:3", spec)])
    before = state(net)
    with pytest.raises(ValueError, match=r"no dense layer computes what 3 compute.*approximate=True"):
        revert_(net)
    assert unchanged(net, before)
    assert kinds(revert_(net, approximate=True), OperatorModule) == []
    assert net(x()).isfinite().all()


def test_works_in_place_and_keeps_parameters_that_an_optimizer_may_hold():
    net = model()
    bias, weight = net[0].bias, net[0].weight
    assert convert_(net, [rule("*", "shift")]) is net
    assert net[0].bias is bias
    assert net[0].weight is weight
    assert pack_(net) is net
    assert net[0].bias is bias


def test_leaves_the_rest_alone():
    net = model()
    before = state(net[3])
    convert_(net, [rule("re:0", "shift")])
    assert type(net[3]) is Conv1D
    assert unchanged(net[3], before)


def test_training_mode_and_frozen_weights_survive():
    net = model().eval()
    net[0].weight.requires_grad_(False)
    net[2].train()
    convert_(net, [rule("*", "shift")])
    assert [part.training for part in (net[0], net[2][0])] == [False, True]
    assert not net[0].weight.requires_grad
    pack_(net)
    assert [part.training for part in (net[0], net[2][0])] == [False, True]
    assert [part.training for part in (unpack_(net)[0], net[2][0])] == [False, True]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("spec", LINEAR + CURVED, ids=str)
def test_a_weight_that_is_not_finite_leaves_the_model_unchanged(bad, spec):
    net = model()
    with torch.no_grad():
        net[3].weight[0, 0] = bad
    before = state(net)
    ids = [id(part) for part in net.modules()]
    with pytest.raises(ValueError, match=r"3: .*NaN or infinity"):
        convert_(net, [rule("*", spec)])
    assert [id(part) for part in net.modules()] == ids
    assert all(torch.equal(before[k], v) or not v.isfinite().all() for k, v in net.state_dict().items())


def test_an_operator_that_a_shape_rules_out_leaves_the_model_unchanged():
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1))
    with pytest.raises(ValueError, match=r"1: .*center=False"):
        convert_(net, [rule("*", "adder")])
    assert kinds(net, OperatorModule) == []


def test_a_plan_for_another_model_is_refused():
    plan = make_plan(model(), [rule("*", "shift")])
    other = nn.Sequential(nn.Linear(10, 12), nn.Linear(12, 4))
    with pytest.raises(ValueError, match=r"the plan \(for Sequential\) converts '2.0', which Sequential does not have"):
        convert_(other, plan)
    assert kinds(other, OperatorModule) == []


def test_a_plan_with_other_shapes_is_refused():
    plan = make_plan(nn.Sequential(nn.Linear(10, 12), nn.Linear(12, 5)), [rule("*", "shift")])
    other = nn.Sequential(nn.Linear(10, 12), nn.Linear(12, 4))
    with pytest.raises(ValueError, match=r"expects 1 to be \(5, 12\) \(N, K\), the model has \(4, 12\)"):
        convert_(other, plan)
    assert kinds(other, OperatorModule) == []


def test_a_plan_for_something_that_is_not_dense_is_refused():
    plan = make_plan(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), [rule("1", "shift")])
    with pytest.raises(ValueError, match="1 is a GELU, not a dense layer"):
        convert_(nn.Sequential(nn.Linear(4, 4), nn.GELU()), plan)


def test_converting_twice_is_refused():
    net = model()
    plan = make_plan(net, [rule("*", "shift")])
    convert_(net, plan)
    before = state(net)
    with pytest.raises(ValueError, match=r"0 is converted already \(shift\); revert_"):
        convert_(net, plan)
    assert unchanged(net, before)
    with pytest.raises(ValueError, match="converted already"):
        convert_(net, [rule("*", "adder")])


def test_packing_a_trained_nan_is_refused_and_changes_nothing():
    net = convert_(model(), [rule("*", "shift")])
    with torch.no_grad():
        net[3].weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"3: .*NaN"):
        pack_(net)
    assert kinds(net, LatentModule) == ["0", "2.0", "3"]


def test_states_that_are_there_already_stay():
    net = convert_(model(), [rule("*", "shift")])
    assert kinds(unpack_(net), LatentModule) == ["0", "2.0", "3"]
    pack_(net)
    before = state(net)
    assert unchanged(pack_(net), before)


def test_a_part_can_be_converted_after_another():
    net = convert_(model(), [rule("re:0", "shift")])
    convert_(net, [rule("re:3", "adder")])
    assert kinds(net, LatentModule) == ["0", "3"]


def test_subclasses_of_linear_are_left_alone():
    class Special(nn.Linear):
        pass

    net = nn.Sequential(nn.Linear(4, 4), Special(4, 4))
    convert_(net, [rule("*", "shift")])
    assert kinds(net, LatentModule) == ["0"]


def test_a_layer_used_twice_stays_one_layer():
    net = nn.Sequential(shared := nn.Linear(4, 4), nn.GELU(), shared)
    convert_(net, [rule("*", "shift")])
    assert net[0] is net[2]
    assert isinstance(net[0], LatentModule)
    assert pack_(net)[0] is net[2]


def test_an_empty_plan_changes_nothing():
    net = model()
    before = state(net)
    assert unchanged(convert_(net, Plan()), before)


def test_a_copy_is_independent():
    net = convert_(model(), [rule("*", "shift")])
    twin = copy.deepcopy(net)
    y = net(x())
    pack_(twin)
    with torch.no_grad():
        twin[0].bias.add_(1)
    assert torch.equal(net(x()), y)
    assert kinds(net, LatentModule) == ["0", "2.0", "3"]
