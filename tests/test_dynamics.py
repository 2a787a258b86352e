"""Dead features are found, living ones are not accused; what training from scratch needs of layers and optimizer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from shiftadd_transformers.finetune import ShiftAddOptimizer, make_optimizer
from shiftadd_transformers.finetune.dynamics import FeatureActivity, dead_features
from shiftadd_transformers.layers import AdderLinear, DenseShiftLinear, ShiftLinear
from shiftadd_transformers.specs import AdderSpec, ShiftSpec


def net():
    torch.manual_seed(0)
    first = AdderLinear.from_dense(nn.Linear(12, 20), AdderSpec(None))
    second = ShiftLinear.from_dense(nn.Linear(20, 8), ShiftSpec())
    return nn.Sequential(first, nn.ReLU(), second)


def test_a_healthy_network_has_none():
    shares = dead_features(net(), torch.randn(64, 12))
    assert shares == {"0": 0.0, "1": 0.0, "2": 0.0}


def test_constructed_dead_features_are_found():
    model = net()
    with torch.no_grad():
        model[0].output_offset[:5] = -1e3  # five features that the activation cuts off for good
        model[2].weight[3] = 0  # one that is its bias
    shares = dead_features(model, torch.randn(64, 12))
    assert shares == {"0": 0.0, "1": 5 / 20, "2": 1 / 8}
    with torch.no_grad(), FeatureActivity(model) as activity:
        model(torch.randn(64, 12))
    assert activity.dead()["1"].nonzero().flatten().tolist() == [0, 1, 2, 3, 4]
    assert activity.dead()["2"].nonzero().flatten().tolist() == [3]
    assert activity.share() == pytest.approx(6 / 48)


def test_an_adder_whose_templates_are_all_far_away_is_dead_after_centring():
    """The failure that the measure is for: equal templates beyond every input differ by a constant only."""
    layer = AdderLinear.from_dense(nn.Linear(12, 20), AdderSpec(None))
    with torch.no_grad():
        layer.weight.copy_(torch.linspace(50, 60, 20)[:, None].expand(20, 12))
    assert dead_features(nn.Sequential(layer), torch.randn(64, 12)) == {"0": 1.0}


def test_a_constant_network_and_nan_are_dead():
    model = net()
    assert dead_features(model, torch.zeros(3, 12)) == {"0": 1.0, "1": 1.0, "2": 1.0}
    with torch.no_grad():
        model[2].bias[0] = float("nan")
    assert dead_features(model, torch.randn(64, 12))["2"] >= 1 / 8


def test_a_feature_that_varies_between_batches_only_is_alive():
    model = net()
    with torch.no_grad(), FeatureActivity(model) as activity:
        for value in (0.0, 1.0):
            model(torch.full((4, 12), value))
    assert activity.shares()["0"] < 0.2
    assert dead_features(model, torch.ones(4, 12))["0"] == 1.0


def test_one_row_says_nothing():
    assert dead_features(net(), torch.randn(1, 12)) == {}


def test_looking_leaves_the_model_as_it_was():
    model = net()
    model[1].eval()
    modes = [module.training for module in model.modules()]
    dead_features(model, torch.randn(4, 12))
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_hooks for module in model.modules())


def test_a_failing_forward_leaves_no_hook():
    model = net()
    with pytest.raises(ValueError, match="features"):
        dead_features(model, torch.randn(4, 13))
    assert not any(module._forward_hooks for module in model.modules())
    assert model.training


# ---- references that start close to their thresholds


def change_of_weights(factor, steps=3):
    """By the first steps at a usual learning rate, relative to the weights."""
    torch.manual_seed(0)
    layer = DenseShiftLinear.from_dense(nn.Linear(32, 32), ShiftSpec(parametrization="denseshift"))
    before = layer.effective_weight().detach().clone()
    optimizer = make_optimizer(layer, 1e-3, reference_lr_factor=factor)
    for _ in range(steps):
        optimizer.zero_grad()
        layer(torch.randn(64, 32)).square().mean().backward()
        optimizer.step()
    return float((layer.effective_weight().detach() - before).norm() / before.norm())


def test_low_variance_references_move_freely_from_scratch_and_hold_while_fine_tuning():
    free, held = change_of_weights(1.0), change_of_weights(0.01)
    assert free > 0.9
    assert held < 0.5 * free


# ---- adders end in a normalisation


def stack(width, depth, norm):
    """Adders behind one another, without anything between them."""
    torch.manual_seed(0)
    spec = AdderSpec(None, norm=norm)
    return nn.Sequential(*(AdderLinear.from_dense(nn.Linear(width, width), spec) for _ in range(depth)))


@pytest.mark.parametrize("width", [16, 128])
def test_normalised_distances_keep_their_magnitude_through_depth_whatever_comes_in(width):
    model = stack(width, 8, norm=True)
    for scale in (0.1, 1.0, 10.0):
        x = torch.randn(64, width) * scale
        with torch.no_grad():
            one, last = model[0](x), model(x)
        assert 0.3 < one.std() < 0.9  # the dense layer's own would be 0.58 at scale 1
        assert 0.3 < last.std() < 0.9


def test_moving_templates_change_the_magnitude_of_a_raw_distance_only():
    growth = {}
    for norm in (False, True):
        model, x = stack(64, 1, norm), torch.randn(64, 64)
        with torch.no_grad():
            model[0].output_offset.zero_()
            model[0].bias.zero_()
            before = model(x).std()
            model[0].weight.mul_(4)
            growth[norm] = float(model(x).std() / before)
    assert growth[False] > 2
    assert 0.8 < growth[True] < 1.25


def test_a_normalised_layer_is_a_layer_norm_of_the_distance():
    layer = AdderLinear.from_dense(nn.Linear(12, 20), AdderSpec(None, norm=True))
    raw = AdderLinear.from_dense(nn.Linear(12, 20), AdderSpec(None, center=False))
    x = torch.randn(6, 12)
    with torch.no_grad():
        raw.weight.copy_(layer.weight)
        raw.output_scale.fill_(1)
        raw.output_offset.zero_()
        raw.bias.zero_()
        scale = layer.output_scale[0] * layer.output_gain
        assert float(layer.output_scale[0]).hex().startswith("0x1.0000")
        expected = nn.functional.layer_norm(raw(x), (20,)) * scale + layer.output_offset + layer.bias
        torch.testing.assert_close(layer(x), expected)


def test_what_a_norm_costs():
    plain, normed = (
        AdderLinear.from_dense(nn.Linear(12, 20), AdderSpec(norm=norm)).counts(7) for norm in (False, True)
    )
    assert (normed.multiply - plain.multiply, normed.lookup - plain.lookup) == (7 * (2 * 20 + 3), 7)


def test_a_norm_needs_the_centre():
    with pytest.raises(ValueError, match="norm=True centres"):
        AdderSpec(center=False, norm=True)
    assert AdderSpec().to_dict() == {"kind": "adder"}


# ---- the adders' own warm-up


def adder_steps(warmup, count=6):
    """How far one weight with a constant gradient moves in each step."""
    weight = nn.Parameter(torch.zeros(1))
    group = {"params": [weight], "rule": "adder", "lr": 1.0, "eta": 1.0, "momentum": 0.0, "weight_decay": 0.0}
    optimizer = ShiftAddOptimizer([{**group, "warmup": warmup}])
    moved = []
    for _ in range(count):
        before = weight.item()
        weight.grad = torch.full((1,), -1e-6)
        optimizer.step()
        moved.append(weight.item() - before)
        # A resumed run goes on where it stopped.
        state = optimizer.state_dict()
        optimizer = ShiftAddOptimizer([{**group, "warmup": 0}])
        optimizer.load_state_dict(state)
    return moved


def test_adders_warm_up_by_themselves_and_across_a_resume():
    assert adder_steps(0) == pytest.approx([1.0] * 6)
    assert adder_steps(4) == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 1.0])
    with pytest.raises(ValueError, match="warmup"):
        ShiftAddOptimizer([{"params": [nn.Parameter(torch.zeros(1))], "rule": "adder", "warmup": -1}])
    groups = {group["name"]: group for group in make_optimizer(net(), 1e-3, adder_warmup=50).param_groups}
    assert groups["adder"]["warmup"] == 50
