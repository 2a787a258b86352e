"""Attention cores by themselves: what they compute, remember and cost."""

from __future__ import annotations

import math

import pytest
import torch
from conformance import normal
from torch import Tensor

from shiftadd_transformers import AdderAttentionSpec, BinaryLinearSpec, MixerSpec
from shiftadd_transformers.layers.attention import AttentionCore, TokenMixer, Visibility, core_type
from shiftadd_transformers.layers.attention.codes import Binarizer
from shiftadd_transformers.layers.attention.running import RunningMean
from shiftadd_transformers.layers.attention.window import TapWindow
from shiftadd_transformers.operators.counts import OpCounts, matadd_counts

H, E = 2, 8
SPECS = [
    BinaryLinearSpec(kernel_size=3),
    BinaryLinearSpec(codes="sign", kernel_size=0),
    BinaryLinearSpec(form="quadratic"),
    AdderAttentionSpec(),
    AdderAttentionSpec(bits=8, identity=False),
    MixerSpec(kernel_size=3),
    MixerSpec(op="add", kernel_size=3, attention=True),
    MixerSpec(op="shift_add", kernel_size=3),
]


def heads(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    b, t, s = shape
    return tuple(normal(b, H, n, E, seed=seed + i, dtype=dtype) for i, n in enumerate((t, s, s)))


def core_of(spec, **options) -> AttentionCore:
    core = core_type(spec)(spec, H, E, **options).eval()
    with torch.no_grad():
        for i, parameter in enumerate(core.parameters()):
            parameter.add_(0.2 * normal(*parameter.shape, seed=20 + i))
    return core


def call(core, query, key, value, visibility=None) -> Tensor:
    return core(query, key, value, visibility or Visibility(), E**-0.5)


# ------------------------------------------------------------------ thresholds


def test_the_first_batch_sets_a_running_mean_and_later_ones_move_it():
    running = RunningMean(2, momentum=0.25)
    one = torch.tensor([1.0, 3.0]).view(1, 2, 1, 1).expand(2, 2, 3, 4)
    running.follow(one, None)
    assert running.mean.tolist() == [1.0, 3.0]
    running.follow(one + 4, None)
    assert running.mean.tolist() == [2.0, 4.0]
    running.eval().follow(one + 100, None)
    assert running.mean.tolist() == [2.0, 4.0]


def test_padding_has_no_say_in_a_running_mean():
    running = RunningMean(1, momentum=0.1)
    x = torch.tensor([1.0, 100.0]).view(1, 1, 2, 1)
    running.follow(x, torch.tensor([[[True, False]]]))
    assert running.mean.item() == 1.0


def test_bits_follow_the_threshold_of_their_head_and_pass_gradients_near_it():
    binarizer = Binarizer(2, momentum=0.1).eval()
    binarizer.threshold.mean.copy_(torch.tensor([0.0, 2.0]))
    binarizer.variance.mean.copy_(torch.tensor([4.0, 1.0]))
    x = torch.tensor([[1.0, -3.0], [2.5, 0.0]]).view(1, 2, 1, 2).requires_grad_()
    assert binarizer(x, binary=True).flatten().tolist() == [1.0, 0.0, 1.0, 0.0]
    signs = binarizer(x, binary=False)
    assert signs.flatten().tolist() == [1.0, -1.0, 1.0, -1.0]
    signs.sum().backward()
    assert x.grad.flatten().tolist() == [0.5, 0.0, 1.0, 0.0]  # 1 / deviation within a deviation of the threshold


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_in_evaluation_batch_mates_do_not_matter(spec):
    core, parts = core_of(spec), heads(3, 5, 5)
    torch.testing.assert_close(call(core, *parts)[1:2], call(core, *(p[1:2] for p in parts)))


# ------------------------------------------------------------------ functions


def binary_reference(query: Tensor, key: Tensor, value: Tensor, allowed: Tensor, binary: bool) -> Tensor:
    """The linear form pair by pair, thresholds zero, no convolution."""
    codes = [(x > 0).double() if binary else (x > 0).double() * 2 - 1 for x in (query, key)]
    pairs = (codes[0] @ codes[1].mT) * allowed
    y = 0.5 * value + pairs @ value / math.pi
    return y / y.norm(dim=-1, keepdim=True)


@pytest.mark.parametrize("codes", ["binary", "sign"])
@pytest.mark.parametrize("causal", [False, True])
def test_the_linear_form_is_the_sum_over_pairs(codes, causal):
    spec = BinaryLinearSpec(codes=codes, kernel_size=0)
    core = core_type(spec)(spec, H, E, causal=causal).eval().double()
    parts = heads(2, 6, 6, dtype=torch.float64)
    allowed = torch.ones(6, 6, dtype=torch.bool).tril() if causal else torch.ones(6, 6, dtype=torch.bool)
    expected = binary_reference(*parts, allowed, codes == "binary")
    torch.testing.assert_close(call(core, *parts, Visibility(causal=causal)), expected)


@pytest.mark.parametrize("spec", SPECS[:3], ids=str)
def test_training_computes_what_evaluation_does(spec):
    """Gradients flow through products of codes; without them, the operator computes."""
    core, (query, key, value) = core_of(spec), heads(2, 5, 5)
    trained = call(core, query.requires_grad_(), key.requires_grad_(), value)
    assert trained.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(call(core, query, key, value), trained)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_a_padded_source_is_no_source(spec):
    core, (query, key, value) = core_of(spec), heads(1, 6, 6)
    allowed = (torch.arange(6) < 4).view(1, 1, 1, 6).expand(1, 1, 6, 6)
    padded = call(core, query, key, value, Visibility(allowed))
    cut = call(core, *(part[:, :, :4] for part in (query, key, value)))
    torch.testing.assert_close(padded[:, :, :4], cut)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_step_by_step_is_the_whole_sequence(spec):
    core, (query, key, value) = core_of(spec, causal=True), heads(2, 6, 6)
    whole = call(core, query, key, value, Visibility(causal=True))
    for t in range(6):
        step = call(core, query[:, :, t : t + 1], key[:, :, : t + 1], value[:, :, : t + 1], Visibility(causal=True))
        torch.testing.assert_close(step[:, :, 0], whole[:, :, t])


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_a_cache_with_room_left_changes_nothing(spec):
    core, (query, key, value) = core_of(spec, causal=True), heads(1, 4, 4)
    whole = call(core, query, key, value, Visibility(causal=True))
    key, value = (torch.cat([part, torch.full((1, H, 3, E), 9.0)], dim=2) for part in (key, value))
    allowed = torch.ones(4, 7, dtype=torch.bool).tril()[None, None]
    torch.testing.assert_close(call(core, query, key, value, Visibility(allowed, causal=True)), whole)
    last = call(core, query[:, :, 3:], key, value, Visibility(allowed[:, :, 3:], causal=True))
    torch.testing.assert_close(last, whole[:, :, 3:])


def test_cross_attention_takes_the_mean_for_a_token_of_its_own():
    spec = BinaryLinearSpec(kernel_size=5)
    core = core_type(spec)(spec, H, E, cross=True).eval()
    assert not list(core.parameters())
    assert call(core, *heads(2, 3, 7)).shape == (2, H, 3, E)
    adder = core_of(AdderAttentionSpec(), cross=True)
    assert call(adder, *heads(2, 3, 7)).shape == (2, H, 3, E)


def test_a_new_convolution_mixer_looks_mostly_at_the_token_itself():
    core = TokenMixer(MixerSpec(kernel_size=7), H, E)
    parts = heads(1, 9, 9)
    kernel = core.kernel()
    assert (kernel.argmax(-1) == 3).all()
    torch.testing.assert_close(kernel.sum(-1), torch.ones(H))
    assert (kernel[:, 3] > 0.75).all()
    assert call(core, *parts).shape == parts[0].shape


def test_distances_of_a_new_mixer_have_unit_variance():
    core = TokenMixer(MixerSpec(op="add", kernel_size=15), H, E).eval()
    value = torch.randn(4, H, 400, E, generator=torch.Generator().manual_seed(0))
    deviation = call(core, value, value, value)[:, :, 10:-10].std()
    assert 0.6 < deviation < 1.6


def test_windows_count_from_the_target():
    value = torch.arange(1.0, 6.0).view(1, 1, 5, 1)
    centred, causal = TapWindow(3, causal=False), TapWindow(3, causal=True)
    assert centred.sources(value, 5, Visibility()).flatten().tolist() == [0, 1, 2, 3, 4, 5, 0]
    assert causal.sources(value, 5, Visibility()).flatten().tolist() == [0, 0, 1, 2, 3, 4, 5]
    assert causal.sources(value, 1, Visibility()).flatten().tolist() == [3, 4, 5]
    with pytest.raises(ValueError, match="no middle"):
        TapWindow(4, causal=False)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_cores_compile_and_come_back_from_a_state_dict(spec):
    core, parts = core_of(spec), heads(2, 5, 5)
    again = core_type(spec)(spec, H, E).eval()
    again.load_state_dict(core.state_dict())
    assert torch.equal(call(again, *parts), call(core, *parts))
    compiled = torch.compile(core, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(call(compiled, *parts), call(core, *parts))


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_bfloat16_stays_bfloat16(spec):
    core = core_of(spec).to(torch.bfloat16)
    y = call(core, *heads(1, 5, 5, dtype=torch.bfloat16))
    assert y.dtype == torch.bfloat16
    assert y.isfinite().all()


# ------------------------------------------------------------------ cost


def test_binary_linear_attention_counts_by_hand():
    spec = BinaryLinearSpec(codes="sign", kernel_size=0)
    counted = core_type(spec)(spec, H, E).counts(batch=3, targets=10, sources=10)
    products = matadd_counts(E, E, 10) + matadd_counts(10, E, E)
    codes = OpCounts(add=20 * E)
    norm = OpCounts(multiply=3 * E + 1, add=2 * E, shift=E, lookup=1) * 10  # squares, scales, one inverse root
    assert counted == (products + codes + norm) * (3 * H)


def test_a_mixer_counts_only_the_half_that_mixes():
    whole, half = (MixerSpec(op="add", kernel_size=3, attention=a) for a in (False, True))
    pure = core_type(whole)(whole, H, E).counts(1, 10, 10)
    assert pure.multiply == 10  # one division by the width per token, for centring
    assert core_type(half)(half, H, E).counts(1, 10, 10).multiply > pure.multiply


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_a_model_is_charged_for_its_cores(spec):
    from hf.families import BY_NAME

    import shiftadd_transformers as sat
    from shiftadd_transformers.cost import compare, count_ops

    model = sat.convert_(BY_NAME["vit"].build(), [sat.rule(role="attn.self", op=spec)])
    report = count_ops(model, **BY_NAME["vit"].inputs())
    row = report.by_kind()[spec.kind]
    assert row.counts == core_type(spec)(spec, 2, 8).counts(2, 5, 5) * 2
    assert not report.uncounted
    assert "attention" not in report.by_kind()
    assert compare(report).columns["int8"].total.counts.total > 0
