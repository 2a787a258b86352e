"""Attention by distance: against its definition, its surrogates, its memory, and with masks."""

from __future__ import annotations

import math

import pytest
import torch
from conformance import normal, peak_bytes
from torch import Tensor

from shiftadd_transformers.operators.adder_attention import adder_attention, adder_attention_weights
from shiftadd_transformers.operators.counts import adder_linear_counts, dense_linear_counts, softmax_counts

SHAPES = [(2, 3, 5, 7, 4), (1, 1, 1, 9, 3), (2, 2, 6, 6, 1), (0, 2, 3, 3, 4), (1, 2, 0, 3, 4)]


def naive(query: Tensor, key: Tensor, value: Tensor, scale: Tensor, allowed=None, bias=None) -> Tensor:
    distance = (query.unsqueeze(-2) - key.unsqueeze(-3)).abs().sum(-1)
    scores = -distance * scale.view(-1, 1, 1) + (0 if bias is None else bias)
    if allowed is not None:
        scores = scores.masked_fill(~allowed, -math.inf)
    return scores.softmax(-1).nan_to_num(0.0) @ value


def operands(b: int, h: int, t: int, s: int, e: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    parts = [normal(b, h, n, e, seed=i, dtype=dtype) for i, n in enumerate((t, s, s))]
    return [*parts, torch.linspace(0.25, 1, h, dtype=dtype)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_the_definition(shape):
    query, key, value, scale = operands(*shape)
    value = torch.cat([value, value * 2], dim=-1)  # values may be wider than keys
    torch.testing.assert_close(
        adder_attention(query, key, value, scale), naive(query, key, value, scale), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_low_precision_is_as_good_as_its_inputs(dtype):
    parts = operands(1, 2, 9, 9, 16, dtype)
    exact = naive(*(p.double() for p in parts))
    assert (adder_attention(*parts).double() - exact).abs().max() < 8 * torch.finfo(dtype).eps


def test_masks_and_biases_broadcast_and_a_blind_target_gets_zeros():
    query, key, value, scale = operands(2, 3, 4, 5, 6)
    allowed = normal(2, 1, 4, 5, seed=9) > -0.5
    allowed[1, 0, 2] = False
    bias = normal(1, 3, 4, 5, seed=8, dtype=torch.float64)
    y = adder_attention(query, key, value, scale, allowed, bias)
    torch.testing.assert_close(y, naive(query, key, value, scale, allowed, bias), rtol=1e-12, atol=1e-12)
    assert not y[1, :, 2].any()


def test_gradients_are_the_true_ones_of_value_scale_and_bias():
    query, key, value, scale = operands(1, 2, 4, 5, 3)
    bias, allowed = normal(1, 2, 4, 5, seed=8, dtype=torch.float64), normal(1, 1, 4, 5, seed=9) > -1
    trained = [tensor.requires_grad_() for tensor in (value, scale, bias)]
    assert torch.autograd.gradcheck(lambda v, s, b: adder_attention(query, key, v, s, allowed, b), trained)


def test_queries_and_keys_get_the_hard_tanh_surrogate():
    query, key, value, scale = operands(2, 2, 4, 5, 3)
    query, key = query.requires_grad_(), key.requires_grad_()
    grad = normal(2, 2, 4, 3, seed=7, dtype=torch.float64)
    adder_attention(query, key, value, scale).backward(grad)

    distances = -(query.detach().unsqueeze(-2) - key.detach().unsqueeze(-3)).abs().sum(-1)
    distances.requires_grad_()
    ((distances * scale.view(-1, 1, 1)).softmax(-1) @ value).backward(grad)
    clamped = (key.detach().unsqueeze(-3) - query.detach().unsqueeze(-2)).clamp(-1, 1)
    step = distances.grad.unsqueeze(-1) * clamped
    torch.testing.assert_close(query.grad, step.sum(-2))
    torch.testing.assert_close(key.grad, -step.sum(-3))


def test_on_the_grid_it_is_the_float_form_of_rounded_operands():
    query, key, value, scale = operands(2, 2, 6, 7, 8, torch.float32)
    exponent = torch.tensor([-4, -5], dtype=torch.int8)
    step = 2.0 ** exponent.float().view(-1, 1, 1)
    rounded = [((part / step).round().clamp(-127, 127) * step).double() for part in (query, key)]
    expected = naive(*rounded, value.double(), scale.double())
    y = adder_attention(query, key, value, scale, exponent=exponent)
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-6)
    assert not torch.equal(y, adder_attention(query, key, value, scale))


def test_weights_are_the_probabilities():
    query, key, value, scale = operands(2, 2, 6, 7, 8)
    weights = adder_attention_weights(query, key, scale)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 2, 6, dtype=torch.float64))
    torch.testing.assert_close(weights @ value, adder_attention(query, key, value, scale))


@pytest.mark.parametrize("exponent", [None, torch.tensor([-4, -5], dtype=torch.int8)], ids=["float", "grid"])
def test_heads_come_together_or_in_stretches_of_targets(monkeypatch, exponent):
    parts = [p.requires_grad_() for p in operands(3, 2, 10, 6, 3, torch.float32)]
    allowed, bias = normal(3, 1, 10, 6, seed=9) > -1, normal(1, 2, 10, 6, seed=8)
    whole = adder_attention(*parts, allowed, bias, exponent)
    gradients = torch.autograd.grad(whole.square().sum(), parts)
    for tile, scores in ((400, 130), (1, 1 << 20), (1, 12)):  # two heads at a time; one; two targets of one
        monkeypatch.setattr("shiftadd_transformers.operators.head_distances.TILE", tile)
        monkeypatch.setattr("shiftadd_transformers.operators.adder_attention._SCORES", scores)
        again = adder_attention(*parts, allowed, bias, exponent)
        torch.testing.assert_close(again, whole, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(torch.autograd.grad(again.square().sum(), parts), gradients, rtol=1e-4, atol=1e-4)


def test_nothing_of_the_size_of_all_scores_is_held():
    """96 heads of 1024 tokens must stay below 1 GiB; a sixth of the heads is held to a sixth of that."""
    heads, tokens, width = 16, 1024, 64
    parts = [normal(1, heads, tokens, width, seed=i).requires_grad_() for i in range(3)]
    scale = torch.full((heads,), 0.125, requires_grad=True)

    def step():
        adder_attention(*parts, scale).sum().backward()

    assert peak_bytes(step) < (1 << 30) // 6
    all_scores = heads * tokens * tokens * 4
    assert peak_bytes(lambda: adder_attention(*(p.detach() for p in parts), scale.detach())) < all_scores


def test_operator_is_registered_whole():
    query, key, value, scale = operands(1, 2, 3, 4, 2, torch.float32)
    arguments = (query, key, value, scale, torch.ones(1, 2, 3, 4, dtype=torch.bool), None, None)
    torch.library.opcheck(torch.ops.shiftadd.adder_attention.default, arguments)
    compiled = torch.compile(adder_attention, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(query, key, value, scale), adder_attention(query, key, value, scale))


def test_flops_are_the_stated_cost():
    from torch.utils.flop_counter import FlopCounterMode

    parts = operands(2, 3, 4, 5, 6, torch.float32)
    with FlopCounterMode(display=False) as counter:
        adder_attention(*parts)
    head = adder_linear_counts(4, 5, 6, scales=1) + softmax_counts(4, 5) + dense_linear_counts(4, 6, 5)
    counted = counter.get_flop_counts()["Global"]
    assert counted[torch.ops.shiftadd.adder_attention] == 6 * head.total


def test_shapes_that_do_not_fit_are_named():
    query, key, value, scale = operands(1, 2, 3, 4, 2)
    with pytest.raises(ValueError, match=r"\[B, H, S, E\].*\(1, 2, 4, 1\)"):
        adder_attention(query, key[..., :1], value, scale)
