"""A mixture is a loop over rows, in two states, whose router learns and keeps both experts busy."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from shiftadd_transformers.cost import count_ops
from shiftadd_transformers.finetune import make_optimizer
from shiftadd_transformers.layers import MixtureLinear, PackedMixtureLinear, expert_shares, set_balance_scale
from shiftadd_transformers.layers.shift import ShiftLinear
from shiftadd_transformers.operators.counts import OpCounts, dense_linear_counts, shift_linear_counts
from shiftadd_transformers.operators.routing import attach_loss, balance_loss, gate, mix_rows, router_margins
from shiftadd_transformers.specs import MixtureSpec

SPECS = [MixtureSpec(), MixtureSpec(5, terms=2), MixtureSpec(group_size=16), MixtureSpec(3, dense_latency=1)]
N, K = 24, 37

each = pytest.mark.parametrize("spec", SPECS, ids=str)


def dense(n=N, k=K, bias=True, dtype=torch.float32) -> nn.Linear:
    torch.manual_seed(3)
    return nn.Linear(k, n, bias).to(dtype)


def rows(*shape, dtype=torch.float32):
    return torch.randn(*(shape or (2, 5)), K, generator=torch.Generator().manual_seed(4)).to(dtype)


def latent(spec=None, **options) -> MixtureLinear:
    """A mixture whose experts differ and whose router is decided, as after training; in evaluation."""
    layer = MixtureLinear.from_dense(dense(**options), spec or MixtureSpec())
    torch.manual_seed(5)
    with torch.no_grad():
        layer.shift_weight.add_(torch.randn_like(layer.shift_weight) * 0.05)
        layer.router.mul_(5)
        layer.router_bias.copy_(torch.tensor([0.1, -0.1]))
        layer.rows_seen.copy_(torch.tensor([300, 700]))
    return layer.eval()


def same(one, other) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)


def naive(layer, x):
    """Row by row, as the definition reads."""
    shift = layer.effective_weight().detach()
    out = []
    for row in x.reshape(-1, layer.in_features):
        dense_logit, shift_logit = (layer.router @ row + layer.router_bias).tolist()
        weight = shift if shift_logit > dense_logit else layer.weight
        out.append(F.linear(row, weight, layer.bias))
    return torch.stack(out).reshape(*x.shape[:-1], -1)


@each
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_equals_a_loop_over_rows(spec, bias):
    layer = latent(spec, bias=bias)
    torch.testing.assert_close(layer(rows(6, 20)), naive(layer, rows(6, 20)))
    to_shift = router_margins(rows(6, 20).flatten(0, 1), layer.router, layer.router_bias) > 0
    assert 0 < to_shift.sum() < 120


def test_the_shift_expert_is_a_shift_layer():
    layer = latent()
    shift = ShiftLinear(MixtureSpec().expert, K, N)
    shift.fill(weight=layer.shift_weight, bias=layer.bias)
    with torch.no_grad():
        layer.router_bias[1] = 1e3
        assert same(layer(rows()), shift(rows()))
        layer.router_bias[1] = -1e3
        assert same(layer(rows()), F.linear(rows(), layer.weight, layer.bias))


def test_each_expert_sees_its_own_rows_only():
    met = []

    def expert(number):
        return lambda x: met.append((number, x[:, 0].tolist())) or x

    x = torch.arange(5.0)[:, None]
    for second in ([1, 0, 0, 1, 0], [0] * 5, [1] * 5):
        met.clear()
        assert torch.equal(mix_rows(x, torch.tensor(second).bool(), (expert(0), expert(1))), x)
        assert met == [(e, [float(i) for i in range(5) if second[i] == e]) for e in (0, 1)]


def test_starts_close_to_the_dense_layer_without_touching_the_random_state():
    original = dense()
    state = torch.get_rng_state()
    layer = MixtureLinear.from_dense(copy.deepcopy(original), MixtureSpec(5, terms=2)).eval()
    assert torch.equal(torch.get_rng_state(), state)
    assert layer.weight.equal(original.weight)
    assert layer.shift_weight.equal(original.weight)
    assert (layer(rows()) - original(rows())).norm() < 0.1 * original(rows()).norm()


# ---- two states, one function


KINDS = [(torch.float32, True), (torch.float32, False), (torch.bfloat16, True), (torch.float16, False)]


@pytest.mark.parametrize(
    ("spec", "dtype", "bias"), [*((spec, *KINDS[0]) for spec in SPECS), *((SPECS[2], *kind) for kind in KINDS[1:])]
)
def test_packed_is_the_same_function_as_latent(spec, bias, dtype):
    layer = latent(spec, bias=bias, dtype=dtype)
    packed = layer.pack()
    y = layer(rows(dtype=dtype))
    assert type(packed) is PackedMixtureLinear
    assert y.dtype == dtype
    assert same(packed(rows(dtype=dtype)), y)
    assert same(packed.unpack()(rows(dtype=dtype)), y)
    assert same(packed.unpack().pack()(rows(dtype=dtype)), y)
    assert packed.shares() == packed.unpack().shares() == (0.3, 0.7)
    assert same(packed.dense_approximation(), layer.dense_approximation())
    assert packed.stored_bytes() < layer.stored_bytes()
    assert [name for name, p in packed.named_parameters() if p.requires_grad] == ["bias"] * bias


@each
@pytest.mark.parametrize("state", ["latent", "packed"])
def test_copies_and_state_dicts(spec, state):
    layer = latent(spec)
    layer = layer if state == "latent" else layer.pack()
    y = layer(rows())
    empty = type(layer).skeleton(dense(), spec)
    assert all(tensor.is_meta for tensor in [*empty.parameters(), *empty.buffers()])
    filled = empty.to_empty(device="cpu").eval()
    filled.load_state_dict(layer.state_dict())
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), filled):
        assert same(twin(rows()), y)
        assert twin.shares() == (0.3, 0.7)


def test_bfloat16_does_not_round_the_count():
    layer = latent().to(torch.bfloat16).train()
    before = layer.rows_seen.sum()
    layer(rows(dtype=torch.bfloat16))
    assert layer.rows_seen.dtype == torch.int64
    assert before - 16 < layer.rows_seen.sum() < before + 10


@pytest.mark.parametrize("shape", [(0,), (1,), (3, 0), (), (7, 1, 2)], ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_batch_shapes(shape, training):
    layer = latent().train(training)
    x = torch.randn(*shape, K, requires_grad=True)
    y = layer(x)
    y.sum().backward()
    assert y.shape == (*shape, N)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in (layer.weight, layer.shift_weight, x))
    assert layer.pack()(x).shape == (*shape, N)


@pytest.mark.parametrize("state", ["latent", "packed"])
def test_a_batch_of_one_is_a_row_of_a_batch_of_many(state):
    layer = latent() if state == "latent" else latent().pack()
    x = rows(40)
    torch.testing.assert_close(torch.cat([layer(row[None]) for row in x]), layer(x))


def test_autocast():
    layer = latent()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, packed = layer(rows()), layer.pack()(rows())
    assert y.dtype == torch.bfloat16
    assert (y - layer(rows())).norm() < 0.02 * y.norm()
    assert (packed - y).norm() < 0.02 * y.norm()
    layer.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        layer(rows()).float().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == p.dtype for p in layer.parameters())


@pytest.mark.parametrize("state", ["latent", "packed"])
def test_exports_with_any_number_of_rows_for_either_expert(state):
    layer = latent() if state == "latent" else latent().pack()
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(layer, (rows(3, 5),), dynamic_shapes=({0: batch},)).module()
    for x in (rows(3, 5), rows(9, 5), torch.zeros(2, 5, K)):
        assert same(program(x), layer(x))


# Dynamo looks at `.grad` of what crosses the graph break where rows are gathered.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_compiles_in_training():
    torch.compiler.reset()
    layer, twin = latent().train(), latent().train()
    compiled = torch.compile(layer, backend="eager")
    for one, step in ((compiled, layer), (twin, twin)):
        torch.manual_seed(0)
        one(rows()).square().sum().backward()
        assert step.rows_seen.sum() > 985
    torch.testing.assert_close(layer.router.grad, twin.router.grad)


def test_is_not_linear_and_reverts_to_the_mean_of_its_experts():
    layer = latent()
    assert not layer.is_linear
    mean = 0.3 * layer.weight.detach() + 0.7 * layer.effective_weight().detach()
    torch.testing.assert_close(layer.to_dense().weight.detach(), mean)


# ---- the router learns


def test_gradients_reach_both_experts_the_router_and_the_input():
    layer = latent(MixtureSpec(balance=0)).train()
    x = rows(4, 20).requires_grad_()
    layer(x).square().sum().backward()
    for name, tensor in [*layer.named_parameters(), ("x", x)]:
        assert tensor.grad is not None, name
        assert tensor.grad.count_nonzero() > 0, name


def test_the_gate_is_one_and_has_the_gradient_of_the_probability_over_the_probability():
    margins = torch.linspace(-3, 3, 8, dtype=torch.float64, requires_grad=True)
    second = torch.tensor([True, False] * 4)
    value = gate(margins, second)
    assert torch.equal(value, torch.ones_like(value))
    (got,) = torch.autograd.grad(value.sum(), margins)
    chosen = torch.softmax(torch.stack([torch.zeros_like(margins), margins]), 0)[second.long(), torch.arange(8)]
    (expected,) = torch.autograd.grad((chosen / chosen.detach()).sum(), margins)
    torch.testing.assert_close(got, expected)


def test_a_hopeless_choice_of_the_noise_gives_finite_gradients():
    margins = torch.tensor([-500.0, 500.0], requires_grad=True)
    gate(margins, torch.tensor([True, False])).sum().backward()
    assert margins.grad.tolist() == [1.0, -1.0]


def test_a_trained_router_finds_the_rows_that_need_the_exact_product():
    """Half of the rows are judged strictly, the others not at all: the strict ones should be dense."""
    torch.manual_seed(0)
    layer = MixtureLinear.from_dense(nn.Linear(16, 8), MixtureSpec(dense_latency=1, shift_latency=1))
    target = copy.deepcopy(layer.weight.detach())
    layer.weight.requires_grad_(False)
    layer.shift_weight.requires_grad_(False)
    optimizer = torch.optim.Adam([layer.router, layer.router_bias], lr=0.01)
    for _ in range(250):
        x = torch.randn(128, 16)
        strict = (x[:, 0] > 0).float()
        loss = ((layer(x) - layer.bias - x @ target.t()).square().mean(1) * strict).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    x = torch.randn(1000, 16)
    to_dense = router_margins(x, layer.router, layer.router_bias) <= 0
    assert to_dense[x[:, 0] > 0].float().mean() > to_dense[x[:, 0] < 0].float().mean() + 0.3


@pytest.mark.parametrize("latencies", [(6.0, 4.0), (1.0, 3.0)])
def test_training_shares_rows_in_inverse_proportion_to_latency(latencies):
    torch.manual_seed(0)
    layer = MixtureLinear.from_dense(
        nn.Linear(32, 8), MixtureSpec(dense_latency=latencies[0], shift_latency=latencies[1])
    )
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-3)
    for _ in range(250):
        loss = (layer(torch.randn(128, 32)) * torch.randn(128, 8)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    wanted = layer.spec.target_shares[0]
    assert abs(layer.shares()[0] - wanted) < 0.05
    to_shift = router_margins(torch.randn(4000, 32), layer.router, layer.router_bias) > 0
    assert abs(1 - to_shift.float().mean() - wanted) < 0.05


def test_shares_are_those_that_inference_will_use():
    layer = latent().train()
    layer.rows_seen.zero_()
    x = rows(500)
    layer(x)
    to_shift = int((router_margins(x, layer.router, layer.router_bias) > 0).sum())
    assert layer.rows_seen.tolist() == [500 - to_shift, to_shift]
    layer.eval()(x)
    assert layer.rows_seen.sum() == 500
    assert expert_shares(nn.Sequential(layer)) == {"0": ((500 - to_shift) / 500, to_shift / 500)}


def test_only_training_is_noisy():
    layer = latent(MixtureSpec(noise=5.0))
    assert same(layer(rows()), layer(rows()))
    layer.train()
    assert not same(layer(rows(50)), layer(rows(50)))


# ---- the balance loss arrives


def test_balance_loss_by_hand():
    margins, noise = torch.tensor([0.3, -0.8, 0.1]), torch.tensor(0.5)
    p = torch.sigmoid(margins / (0.5 / 1.702))
    load = torch.distributions.Normal(0, 0.5).cdf(margins)
    expected = 0.0
    for share in (p, load):
        work = torch.stack([0.6 * (1 - share).sum(), 0.4 * share.sum()])
        expected += work.var(correction=0) / work.mean() ** 2
    torch.testing.assert_close(balance_loss(margins, noise, (6.0, 4.0)), expected)
    torch.testing.assert_close(p, load, atol=0.01, rtol=0)


def gradient_of_balance(layer, x, run=lambda layer, x: layer(x)):
    """The router's gradient when the trainer's own loss tells it nothing."""
    torch.manual_seed(9)
    layer.zero_grad()
    (run(layer, x) * 0).sum().backward()
    return layer.router.grad.clone()


def test_the_balance_loss_reaches_the_router_once_whatever_the_loss():
    layer, x = latent(MixtureSpec(balance=0.5)).train(), rows(30)
    margins = router_margins(x, layer.router, layer.router_bias)
    noise = margins.detach().std(correction=0) * layer.spec.noise
    (expected,) = torch.autograd.grad(0.5 * balance_loss(margins, noise, (6.0, 4.0)), layer.router)
    torch.testing.assert_close(gradient_of_balance(layer, x), expected)
    assert gradient_of_balance(latent(MixtureSpec(balance=0)).train(), x).count_nonzero() == 0
    for reentrant in (True, False):
        run = lambda layer, x: checkpoint(layer, x, use_reentrant=reentrant)  # noqa: B023, E731
        torch.testing.assert_close(gradient_of_balance(layer, x.clone().requires_grad_(), run), expected)


def test_the_scale_of_the_balance_loss_follows_the_trainers():
    layer, x = latent().train(), rows(30)
    one = gradient_of_balance(layer, x)
    set_balance_scale(nn.Sequential(layer), 0.25)
    torch.testing.assert_close(gradient_of_balance(layer, x), one / 4)


def test_attaching_leaves_the_value_and_its_gradient_alone():
    y = torch.randn(3, requires_grad=True)
    loss = torch.tensor(2.0, requires_grad=True)
    out = attach_loss(y, loss, 0.5)
    assert torch.equal(out, y)
    (out * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    assert y.grad.tolist() == [1.0, 2.0, 3.0]
    assert loss.grad == 0.5


# ---- cost


def test_counts_follow_the_measured_shares():
    layer = latent()
    router = dense_linear_counts(10, 2, K, bias=True) + OpCounts(add=10)
    expected = router + dense_linear_counts(3, N, K, True) + shift_linear_counts(7, N, K, 1, True)
    assert layer.counts(10) == layer.pack().counts(10) == expected
    fresh = MixtureLinear.from_dense(dense(), MixtureSpec())
    assert fresh.counts(10) == router + dense_linear_counts(4, N, K, True) + shift_linear_counts(6, N, K, 1, True)


def test_cost_reads_both_experts_and_computes_at_the_activations_type():
    layer = latent().pack()
    (row,) = count_ops(nn.Sequential(layer), rows()).rows
    assert row.kind == "mixture"
    assert row.operations == {"float32": layer.counts(10)}
    assert row.weight_bytes == layer.stored_bytes() == sum(t.nbytes for t in layer.state_dict().values())


def test_weight_decay_leaves_the_router_alone():
    groups = make_optimizer(nn.Sequential(latent()), 1e-3, weight_decay=0.1).param_groups
    shapes = {group["name"]: sorted(tuple(p.shape) for p in group["params"]) for group in groups}
    assert shapes == {"decay": [(N, K), (N, K)], "no_decay": [(2,), (2, K), (N,)]}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"bits": 6}, "mixture: of its expert, shift: bits"),
        ({"bits": 2, "terms": 2}, "bits=2 terms=2"),
        ({"dense_latency": 0}, "mixture: dense_latency must be positive"),
        ({"shift_latency": -1.0}, "shift_latency"),
        ({"balance": -0.1}, "balance"),
        ({"noise": 0}, "noise must be positive"),
    ],
)
def test_impossible_specs_are_refused(fields, said):
    with pytest.raises(ValueError, match=said):
        MixtureSpec(**fields)
