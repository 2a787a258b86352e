"""A depthwise convolution over tokens: against its definition, with true gradients."""

from __future__ import annotations

import pytest
import torch
from conformance import normal

from shiftadd_transformers.operators.counts import dense_linear_counts
from shiftadd_transformers.operators.token_convolution import token_convolution

SHAPES = [(2, 3, 5, 4, 3), (1, 1, 1, 1, 1), (2, 2, 7, 3, 5), (0, 2, 4, 3, 2)]


def operands(b, h, t, e, j, dtype=torch.float64):
    return normal(b, h, t + j - 1, e, dtype=dtype), normal(h, j, seed=1, dtype=dtype)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_the_definition(shape):
    x, taps = operands(*shape)
    expected = (x.unfold(2, taps.shape[1], 1) * taps[:, None, None, :]).sum(-1)
    torch.testing.assert_close(token_convolution(x, taps), expected, rtol=1e-12, atol=1e-12)


def test_gradients_are_the_true_ones():
    x, taps = (part.requires_grad_() for part in operands(2, 3, 5, 4, 3))
    assert torch.autograd.gradcheck(token_convolution, (x, taps))


def test_operator_is_registered_whole():
    x, taps = (part.requires_grad_() for part in operands(1, 2, 3, 4, 2, torch.float32))
    torch.library.opcheck(torch.ops.shiftadd.token_convolution.default, (x, taps))
    compiled = torch.compile(token_convolution, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(x, taps), token_convolution(x, taps))


def test_flops_are_the_stated_cost():
    from torch.utils.flop_counter import FlopCounterMode

    x, taps = operands(2, 3, 4, 5, 6, torch.float32)
    with FlopCounterMode(display=False) as counter:
        token_convolution(x, taps)
    assert counter.get_total_flops() == dense_linear_counts(2 * 3 * 4 * 5, 1, 6).total
