"""Linear attention by bits: against its definition."""

from __future__ import annotations

import math

import pytest
import torch
from conformance import normal

from shiftadd_transformers.operators import matadd, pack_planes
from shiftadd_transformers.operators.binary_attention import binary_attention, binary_attention_counts

SHAPES = [(2, 3, 5, 7, 4), (1, 1, 1, 9, 3), (2, 2, 6, 6, 1), (0, 2, 3, 3, 4), (1, 2, 0, 3, 4), (1, 2, 3, 0, 4)]


def operands(b, h, t, s, e, dtype=torch.float64):
    parts = [normal(b, h, n, e, seed=i, dtype=dtype) for i, n in enumerate((t, s, s, t))]
    return [*parts, torch.linspace(-0.5, 0.5, h, dtype=dtype), torch.linspace(0.2, -0.2, h, dtype=dtype)]


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_the_sum_over_pairs(shape, binary):
    query, key, value, own, *thresholds = operands(*shape)
    coded = [(x > t.view(-1, 1, 1)).double() for x, t in zip((query, key), thresholds, strict=True)]
    q, k = coded if binary else [c * 2 - 1 for c in coded]
    rows = own / 2 + torch.einsum("bhte,bhse,bhsf->bhtf", q, k, value) / math.pi
    expected = rows / rows.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(binary_attention(query, key, value, own, *thresholds, binary), expected)


def test_with_signs_it_is_two_matadds():
    query, key, value, own, *_ = operands(2, 3, 5, 16, 8)
    zero = torch.zeros(3, dtype=torch.float64)
    rows = matadd(pack_planes(query), matadd(pack_planes(key.mT.contiguous()), value))
    y = binary_attention(query, key, value, torch.zeros_like(own), zero, zero, False)
    torch.testing.assert_close(y, rows / rows.norm(dim=-1, keepdim=True))


def test_an_element_at_the_threshold_is_below_it():
    x = torch.full((1, 1, 1, 1), 0.5)
    one, none = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)
    at, below = torch.tensor([0.5]), torch.tensor([0.25])
    assert binary_attention(x, x, one, none, at, below).item() == 0
    assert binary_attention(x, x, one, none, below, below).item() == 1
    assert binary_attention(x, x, one, none, at, below, False).item() == -1


def test_operator_is_registered_whole():
    parts = operands(1, 2, 3, 4, 2, torch.float32)
    torch.library.opcheck(torch.ops.shiftadd.binary_attention.default, (*parts, True))
    compiled = torch.compile(binary_attention, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(*parts), binary_attention(*parts))


@pytest.mark.parametrize("binary", [True, False])
def test_flops_are_the_stated_cost(binary):
    from torch.utils.flop_counter import FlopCounterMode

    parts = operands(2, 3, 4, 5, 6, torch.float32)
    with FlopCounterMode(display=False) as counter:
        binary_attention(*parts, binary)
    assert counter.get_total_flops() == 6 * binary_attention_counts(4, 5, 6, 6, binary).total


def test_shapes_that_do_not_fit_are_named():
    query, key, value, own, *thresholds = operands(1, 2, 3, 4, 2)
    with pytest.raises(ValueError, match=r"thresholds \[H\].*\(1, 2, 4, 1\)"):
        binary_attention(query, key[..., :1], value, own, *thresholds)
