"""Every operator layer keeps the promises of its floor: one function in two states, trainable, close to dense."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

from shiftadd_transformers import AdderSpec, BcqSpec, ShiftAddSpec, ShiftSpec
from shiftadd_transformers.layers import (
    DenseShiftLinear,
    OperatorModule,
    ShiftLinear,
    ShiftPSLinear,
    latent_type,
    packed_type,
)
from shiftadd_transformers.operators.counts import OpCounts

SHIFT = [
    *(ShiftSpec(bits, parametrization=p) for p in ("q", "ps", "denseshift") for bits in (2, 3, 4, 5)),
    *(ShiftSpec(bits, terms) for bits, terms in [(3, 2), (4, 2), (5, 2), (4, 3), (5, 3)]),
    ShiftSpec(3, zero=False),
    *(ShiftSpec(group_size=size) for size in (1, 4, 16, 64)),
    ShiftSpec(4, 2, group_size=16),
    *(ShiftSpec(group_size=4, parametrization=p) for p in ("ps", "denseshift")),
    ShiftSpec(activation_bits=8),
    ShiftSpec(5, 2, group_size=16, activation_bits=8),
    *(ShiftSpec(parametrization=p, activation_bits=8) for p in ("ps", "denseshift")),
]
ADDER = [
    *(AdderSpec(bits, center, norm=norm) for bits in (8, None) for center, norm in [(True, False), (False, False)]),
    *(AdderSpec(bits, norm=True) for bits in (8, None)),
]
SHIFT_ADD = [ShiftAddSpec(), ShiftAddSpec(bits=3)]
BCQ = [
    BcqSpec(),
    *(BcqSpec(planes) for planes in (1, 2, 4)),
    BcqSpec(group_size=16),
    BcqSpec(grouping="column"),
    BcqSpec(grouping="column", group_size=5),
    *(BcqSpec(planes, "column", activation_bits=8) for planes in (1, 2, 3, 4)),
    BcqSpec(grouping="block"),
    BcqSpec(grouping="block", group_size=4),
    *(BcqSpec(scale_terms=terms) for terms in (1, 2)),
]
BCQ_TABLES = BcqSpec(2, "column", activation_bits=8)
LINEAR = SHIFT + BCQ
ALL = LINEAR + ADDER + SHIFT_ADD
N, K = 24, 37

each = pytest.mark.parametrize("spec", ALL, ids=str)
each_linear = pytest.mark.parametrize("spec", LINEAR, ids=str)


def dense(n: int = N, k: int = K, *, bias: bool = True, dtype: torch.dtype = torch.float32) -> nn.Linear:
    torch.manual_seed(3)
    layer = nn.Linear(k, n, bias)
    nn.init.normal_(layer.weight, std=k**-0.5)
    return layer.to(dtype)


def rows(k: int = K, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(2, 5, k, generator=torch.Generator().manual_seed(4)).to(dtype)


def latent(spec, **options):
    return latent_type(spec).from_dense(dense(**options), spec)


def trained(spec, **options):
    """A layer whose parameters have moved, as they do in training."""
    layer = latent(spec, **options)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.1 * parameter.abs().mean() * torch.randn_like(parameter))
    return layer


def same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)


@each
@pytest.mark.parametrize("make", [latent, trained])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_packed_is_the_same_function_as_latent(spec, make, bias):
    layer = make(spec, bias=bias)
    packed = layer.pack()
    assert type(packed) is packed_type(spec)
    assert same(packed(rows()), layer(rows()))


@each
@pytest.mark.parametrize("make", [latent, trained])
def test_unpacked_is_the_same_function_as_packed(spec, make):
    packed = make(spec).pack()
    layer = packed.unpack()
    assert type(layer) is latent_type(spec)
    assert same(layer(rows()), packed(rows()))
    again = layer.pack().state_dict()
    assert same(layer.pack()(rows()), packed(rows()))
    assert again.keys() == packed.state_dict().keys()


@each
def test_odd_sizes(spec):
    for n, k in [(2, 1), (3, 7), (9, 100)]:
        layer = latent(spec, n=n, k=k)
        y = layer(rows(k))
        assert y.shape == (2, 5, n)
        assert y.isfinite().all()
        assert same(layer.pack()(rows(k)), y)
        assert same(layer(rows(k)[0, 0]), layer.pack()(rows(k)[0, 0]))
        assert layer.pack()(rows(k)[:, :0]).shape == (2, 0, n)


@each
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_dtypes(spec, dtype, bias):
    layer = latent(spec, dtype=dtype, bias=bias)
    packed = layer.pack()
    y = layer(rows(dtype=dtype))
    assert y.dtype == dtype
    assert same(packed(rows(dtype=dtype)), y)
    assert all(p.dtype == dtype for p in layer.parameters())
    assert packed.weight.dtype == packed.dense_approximation().dtype == dtype
    assert all(p.dtype == dtype for p in packed.unpack().parameters())
    assert same(packed.unpack()(rows(dtype=dtype)), y)
    wide = copy.deepcopy(layer).float()
    assert relative(y, wide(rows(dtype=dtype).float())) < (0.02 if dtype is torch.bfloat16 else 0.003)


def relative(y: Tensor, reference: Tensor) -> float:
    y, reference = y.detach().double(), reference.detach().double()
    return float((y - reference).norm() / reference.norm())


@each
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_a_packed_layer_follows_the_dtype_of_its_model(spec, bias):
    packed = latent(spec, bias=bias).pack().to(torch.bfloat16)
    assert packed.weight.dtype == torch.bfloat16
    assert packed(rows(dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert all(p.dtype == torch.bfloat16 for p in packed.unpack().parameters())
    assert all(
        p.dtype in (torch.uint8, torch.int8)
        for name, p in packed.named_parameters()
        if "weight" in name and getattr(spec, "bits", 8) is not None
    )


@each
def test_gradients_reach_every_parameter_and_the_input(spec):
    layer = latent(spec)
    x = rows().requires_grad_()
    layer(x).square().sum().backward()
    for name, tensor in [*layer.named_parameters(), ("x", x)]:
        assert tensor.grad is not None, name
        assert tensor.grad.isfinite().all(), name
        assert tensor.grad.count_nonzero() > 0, name


@pytest.mark.parametrize("spec", [s for s in LINEAR if getattr(s, "parametrization", "q") == "q"], ids=str)
def test_the_weight_gradient_is_the_dense_one(spec):
    layer, x, g = latent(spec), rows(), torch.randn(2, 5, N)
    layer(x).backward(g)
    torch.testing.assert_close(layer.weight.grad, g.flatten(0, 1).t() @ x.flatten(0, 1))


@each
def test_packed_trains_its_input_and_bias_only(spec):
    packed = latent(spec).pack()
    x = rows().requires_grad_()
    packed(x).square().sum().backward()
    assert x.grad.count_nonzero() > 0
    assert [name for name, p in packed.named_parameters() if p.requires_grad] == ["bias"]
    assert packed.bias.grad.count_nonzero() > 0


def learning_rate(spec) -> float:
    if getattr(spec, "parametrization", "") == "ps":
        return 5e-2  # a sign has to travel by a half before anything changes
    return 1e-2 if getattr(spec, "center", True) else 1e-3


@each
def test_training_comes_closer_to_a_target(spec):
    layer = latent(spec, n=8, k=16)
    x = torch.randn(64, 16)
    target = x @ torch.randn(16, 8) / 4 + torch.randn(8)
    optimizer = torch.optim.Adam(layer.parameters(), lr=learning_rate(spec))
    losses = []
    for _ in range(40):
        loss = (layer(x) - target).square().mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < (0.8 if getattr(spec, "center", True) else 0.95) * losses[0]
    assert same(layer.pack()(x), layer(x))


# The relative error of a freshly converted Gaussian weight, measured and rounded up.
ERROR = {2: 0.46, 3: 0.25, 4: 0.22, 5: 0.22}
ERROR_APOT = {(3, 2): 0.24, (4, 2): 0.13, (5, 2): 0.09, (4, 3): 0.13, (5, 3): 0.08}
ERROR_BCQ = {1: 0.65, 2: 0.37, 3: 0.2, 4: 0.12}
ERROR_BCQ_TERMS = {1: 0.29, 2: 0.23, 3: 0.2}


def error_bound(spec) -> float:
    if isinstance(spec, BcqSpec):
        return max(ERROR_BCQ[spec.planes], ERROR_BCQ_TERMS[spec.scale_terms] * (spec.scale_terms < 3))
    return ERROR_APOT[spec.bits, spec.terms] if spec.terms > 1 else ERROR[spec.bits]


@each_linear
def test_starts_close_to_the_dense_layer(spec):
    original = dense(64, 96)
    layer = latent_type(spec).from_dense(copy.deepcopy(original), spec)
    assert relative(layer.dense_approximation(), original.weight) < error_bound(spec)


@pytest.mark.parametrize(
    ("spec", "least"),
    [
        *((AdderSpec(bits, norm=norm), 0.86) for bits in (8, None) for norm in (False, True)),
        *((ShiftAddSpec(bits), least) for bits, least in [(4, 0.85), (3, 0.84)]),
    ],
    ids=str,
)
@pytest.mark.parametrize(("n", "k"), [(64, 96), (256, 64), (64, 512)])
def test_distances_start_correlated_with_the_dense_layer(spec, least, n, k):
    original = dense(n, k, bias=False)
    layer = latent_type(spec).from_dense(copy.deepcopy(original), spec)
    x = torch.randn(512, k)
    with torch.no_grad():
        y, reference = layer(x), original(x)
    reference -= reference.mean(-1, keepdim=True)
    assert torch.corrcoef(torch.stack([y.flatten(), reference.flatten()]))[0, 1] > least
    assert 0.85 < y.std() / reference.std() < 1.25


def test_without_centring_a_distance_starts_worse():
    """What `center` is for: a part of the distance is common to all outputs of a row."""
    original = dense(64, 512, bias=False)
    layer = latent_type(AdderSpec(center=False)).from_dense(copy.deepcopy(original), AdderSpec(center=False))
    x = torch.randn(512, 512)
    with torch.no_grad():
        pair = torch.stack([layer(x).flatten(), original(x).flatten()])
    assert 0.5 < torch.corrcoef(pair)[0, 1] < 0.6


@pytest.mark.parametrize("spec", SHIFT, ids=str)
@pytest.mark.parametrize("make", [latent, trained])
def test_shift_weights_are_short_sums_of_powers_of_two(spec, make):
    layer = make(spec)
    scale = torch.exp2(layer.pack().weight_exponent.double())
    if spec.group_size is not None:
        scale = scale.repeat_interleave(spec.group_size, 1)[:, :K]
    integers = layer.effective_weight().double() / scale
    assert torch.equal(integers, integers.round())
    levels = set(integers.abs().flatten().int().tolist())
    assert levels <= set(spec.format.magnitudes)
    assert all(level.bit_count() <= spec.terms for level in levels)
    assert len(levels) > 1 or spec.group_size == 1


@pytest.mark.parametrize("spec", BCQ, ids=str)
def test_bcq_weights_are_signed_sums_of_shared_scales(spec):
    packed = latent(spec).pack()
    assert packed.weight_planes.shape == (spec.planes, N, -(-K // 8))
    assert packed.weight_scale.shape[-1] == spec.scale_terms
    if spec.grouping == "row" and spec.group_size is None:
        assert all(len(row.unique()) <= 2**spec.planes for row in packed.weight)
    if spec.grouping == "column" and spec.group_size is None:
        assert all(len(column.unique()) <= 2**spec.planes for column in packed.weight.t())


@each
@pytest.mark.parametrize("factor", [40.0, 1e-3])
def test_weights_far_from_one(spec, factor):
    original = dense()
    with torch.no_grad():
        original.weight.mul_(factor)
    layer = latent_type(spec).from_dense(copy.deepcopy(original), spec)
    assert same(layer.pack()(rows()), layer(rows()))
    if spec in LINEAR:
        assert relative(layer.dense_approximation(), original.weight) < 1.1 * error_bound(spec)
    else:
        y = layer(rows()) - layer.bias
        assert 0.3 < y.std() / nn.functional.linear(rows(), original.weight).std() < 3


@each
def test_a_weight_of_zeros(spec):
    original = dense()
    nn.init.zeros_(original.weight)
    layer = latent_type(spec).from_dense(original, spec)
    y = layer(rows())
    assert y.isfinite().all()
    assert same(layer.pack()(rows()), y)


@each
@pytest.mark.parametrize("state", ["latent", "packed"])
def test_copies(spec, state):
    layer = latent(spec)
    layer = layer if state == "latent" else layer.pack()
    y = layer(rows())
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert same(twin(rows()), y)
        assert twin.spec == spec
        assert twin.dense_type is nn.Linear


@each
@pytest.mark.parametrize("state", ["latent", "packed"])
def test_a_state_dict_fills_a_skeleton(spec, state):
    layer = latent(spec)
    layer = layer if state == "latent" else layer.pack()
    empty = type(layer).skeleton(dense(), spec)
    assert all(tensor.is_meta for tensor in [*empty.parameters(), *empty.buffers()])
    assert empty.state_dict().keys() == layer.state_dict().keys()
    for name, tensor in layer.state_dict().items():
        assert empty.state_dict()[name].shape == tensor.shape, name
        assert empty.state_dict()[name].dtype == tensor.dtype, name
    empty.to_empty(device="cpu").load_state_dict(layer.state_dict())
    assert same(empty(rows()), layer(rows()))


@each
def test_latent_keeps_the_key_of_the_dense_weight_where_it_trains_one(spec):
    trains_weight = getattr(spec, "parametrization", "q") == "q"
    assert ("weight" in latent(spec).state_dict()) == trains_weight
    assert "weight" not in latent(spec).pack().state_dict()


@each
def test_converts_to_dense(spec):
    layer = latent(spec)
    for form in (layer, layer.pack()):
        back = form.to_dense()
        assert type(back) is nn.Linear
        assert same(back.weight.detach(), form.dense_approximation())
        if form.is_linear and getattr(spec, "activation_bits", None) is None:
            torch.testing.assert_close(back(rows()), form(rows()))
    if form.is_linear:
        assert same(layer.dense_approximation(), layer.pack().dense_approximation())


@pytest.mark.parametrize("spec", ADDER + SHIFT_ADD, ids=str)
def test_the_nearest_dense_layer_of_a_distance_is_near_where_it_came_from(spec):
    original = dense(64, 96)
    layer = latent_type(spec).from_dense(copy.deepcopy(original), spec)
    assert relative(layer.dense_approximation(), original.weight) < 0.2


@each
def test_counts_and_bytes(spec):
    layer = latent(spec)
    packed = layer.pack()
    assert layer.counts(7) == packed.counts(7) == packed.counts(1) * 7
    assert isinstance(layer.counts(1), OpCounts)
    if spec in SHIFT:
        assert layer.counts(7).multiply == 0
    tensors = [*packed.state_dict().values()]
    assert packed.stored_bytes() == sum(t.numel() * t.element_size() for t in tensors)
    assert packed.stored_bytes() < layer.stored_bytes() or getattr(spec, "bits", 0) is None


@pytest.mark.parametrize(
    ("spec", "stored"),
    [
        (ShiftSpec(4), 64 * 48 + 64 + 4 * 64),
        (ShiftSpec(3, group_size=32), 64 * 36 + 64 * 3 + 4 * 64),
        (AdderSpec(), 64 * 96 + 1 + 3 * 4 * 64),
        (ShiftAddSpec(), 64 * 48 + 64 + 64 * 64 + 1 + 3 * 4 * 64),
        (BcqSpec(3), 3 * 64 * 12 + 3 * 64 * 3 + 4 * 64),
    ],
    ids=str,
)
def test_bytes_of_a_packed_layer(spec, stored):
    assert latent(spec, n=64, k=96).pack().stored_bytes() == stored


@each
def test_a_weight_can_be_looked_at_in_both_states(spec):
    layer = latent(spec)
    assert layer.weight.shape == layer.pack().weight.shape == (N, K)
    assert not layer.pack().weight.requires_grad


@each
def test_prints(spec):
    layer = latent(spec)
    assert f"{K}, {N}, {spec}" in repr(layer)
    assert f"{K}, {N}, {spec}" in repr(layer.pack())


@each
def test_refuses_nan(spec):
    original = dense()
    with torch.no_grad():
        original.weight[3, 4] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        latent_type(spec).from_dense(original, spec)


@each
def test_from_scratch_under_no_device(spec):
    with torch.device("meta"):
        layer = latent_type(spec)(spec, K, N)
    assert isinstance(layer, OperatorModule)
    assert all(p.is_meta for p in layer.parameters())


@each
def test_autocast(spec):
    layer = latent(spec)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, packed = layer(rows()), layer.pack()(rows())
    assert relative(y, layer(rows())) < 0.1
    assert relative(packed, y) < 0.05
    y.float().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == p.dtype for p in layer.parameters())


def test_parametrisations_train_what_they_are_named_for():
    names = {
        cls: [n for n, _ in latent(spec).named_parameters()]
        for cls, spec in [
            (ShiftLinear, ShiftSpec()),
            (ShiftPSLinear, ShiftSpec(parametrization="ps")),
            (DenseShiftLinear, ShiftSpec(parametrization="denseshift")),
        ]
    }
    assert set(names[ShiftLinear]) == {"weight", "bias"}
    assert set(names[ShiftPSLinear]) == {"shift", "sign", "bias"}
    assert set(names[DenseShiftLinear]) == {"sign", "shift", "bias"}


def test_denseshift_starts_with_low_variance():
    layer = latent(ShiftSpec(parametrization="denseshift"), n=64, k=96)
    assert layer.shift.abs().max() < 0.1
    assert layer.sign.abs().max() < 0.1


@pytest.mark.parametrize("spec", [ShiftSpec(5), ShiftSpec(4, 2), ShiftSpec(5, 3)], ids=str)
def test_integer_activations_make_the_product_exact(spec):
    integer = ShiftSpec(spec.bits, spec.terms, activation_bits=8)
    layer = latent(integer, bias=False)
    x = rows()
    scale = x.abs().amax(-1, keepdim=True) / 127
    codes = (x / scale).round().clamp(-127, 127)
    packed = layer.pack()
    exact = (codes.double() @ packed.weight.double().t()) * scale.double()
    torch.testing.assert_close(packed(x).double(), exact, rtol=2e-7, atol=0)


def test_an_adder_needs_two_outputs_to_centre_over():
    for spec in (AdderSpec(), ShiftAddSpec()):
        with pytest.raises(ValueError, match="two or more"):
            latent(spec, n=1)
    assert latent(AdderSpec(center=False), n=1)(rows()).shape == (2, 5, 1)


def test_the_rotation_is_the_same_everywhere_and_leaves_the_random_state_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one = latent_type(ShiftAddSpec()).from_dense(dense_of(1), ShiftAddSpec())
    torch.manual_seed(5)
    two = latent_type(ShiftAddSpec()).from_dense(dense_of(1), ShiftAddSpec())
    assert torch.equal(one.adder_weight, two.adder_weight)
    torch.set_rng_state(before)


def dense_of(value: int) -> nn.Linear:
    layer = nn.Linear(8, 8)
    with torch.no_grad():
        layer.weight.copy_(torch.arange(64.0).reshape(8, 8).sin() * value)
    return layer


# ---- the rounded weight is kept between forwards without gradient


def changes(layer) -> dict:
    """Ways in which a parameter gets another value."""
    other = {name: -tensor for name, tensor in layer.state_dict().items() if tensor.is_floating_point()}
    moved = {**layer.state_dict(), **other}

    def assign(parameters=layer.named_parameters):
        for name, parameter in parameters():
            parameter.data = other[name]

    def step():
        for parameter in layer.parameters():
            parameter.grad = 2 * parameter.detach()
        torch.optim.SGD(layer.parameters(), lr=1.0).step()

    return {
        "load_state_dict": lambda: layer.load_state_dict(moved),
        "assigning load": lambda: layer.load_state_dict(moved, assign=True),
        "data": assign,
        "optimizer": step,
    }


@pytest.mark.parametrize("way", ["load_state_dict", "assigning load", "data", "optimizer"])
@pytest.mark.parametrize("spec", [ShiftSpec(), ShiftSpec(activation_bits=8), BcqSpec(), BCQ_TABLES], ids=str)
def test_a_kept_weight_is_made_anew_when_a_parameter_changes(spec, way):
    layer = latent(spec)
    with torch.no_grad():
        y = layer(rows())
        assert torch.equal(layer(rows()), y)
    changes(layer)[way]()
    with torch.no_grad():
        assert torch.equal(layer(rows()), layer.pack()(rows()))
        torch.testing.assert_close(layer(rows()), -y, rtol=1e-5, atol=1e-5)


@each
def test_inference_mode(spec):
    with torch.inference_mode():
        layer = latent(spec)
        y = layer(rows())
        assert torch.equal(layer(rows()), y)
        assert torch.equal(layer.pack()(rows()), y)
    assert torch.equal(latent(spec)(rows()), y)
