"""A depthwise window of distances: against its definition, its surrogates, and with padding that counts."""

from __future__ import annotations

import pytest
import torch
from conformance import normal
from torch import Tensor

from shiftadd_transformers.operators.adder_window import adder_window, adder_window_counts

SHAPES = [(2, 3, 5, 4, 3), (1, 1, 1, 1, 1), (2, 2, 7, 3, 5), (0, 2, 4, 3, 2), (1, 2, 4, 0, 2)]


def naive(x: Tensor, taps: Tensor) -> Tensor:
    windows = x.unfold(2, taps.shape[1], 1)  # [B, H, T, E, J]
    return -(windows - taps[:, None, None, :]).abs().sum(-1)


def operands(b: int, h: int, t: int, e: int, j: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    return normal(b, h, t + j - 1, e, dtype=dtype), normal(h, j, seed=1, dtype=dtype)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_the_definition(shape):
    x, taps = operands(*shape)
    torch.testing.assert_close(adder_window(x, taps), naive(x, taps), rtol=1e-12, atol=1e-12)


def test_padding_zeros_are_part_of_the_sum():
    x, taps = torch.zeros(1, 1, 3, 1), torch.tensor([[1.0, -2.0, 4.0]])
    assert adder_window(x, taps).item() == -7.0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sums_are_wider_than_low_precision_operands(dtype):
    x, taps = operands(1, 2, 6, 3, 31, dtype)
    exact = naive(x.double(), taps.double())
    assert ((adder_window(x, taps).double() - exact) / exact).abs().max() <= torch.finfo(dtype).eps


def test_gradients_are_the_surrogates_of_an_adder():
    x, taps = (part.requires_grad_() for part in operands(2, 3, 5, 4, 3))
    grad = normal(2, 3, 5, 4, seed=2, dtype=torch.float64)
    adder_window(x, taps).backward(grad)
    windows = x.detach().unfold(2, 3, 1)
    difference = windows - taps.detach()[:, None, None, :]
    torch.testing.assert_close(taps.grad, (difference * grad.unsqueeze(-1)).sum((0, 2, 3)))
    expected = torch.zeros_like(x)
    for j in range(3):
        expected[:, :, j : j + 5] += (-difference[..., j]).clamp(-1, 1) * grad
    torch.testing.assert_close(x.grad, expected)


def test_operator_is_registered_whole():
    x, taps = operands(1, 2, 3, 4, 2, torch.float32)
    torch.library.opcheck(torch.ops.shiftadd.adder_window.default, (x, taps))
    compiled = torch.compile(adder_window, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(x, taps), adder_window(x, taps))


def test_flops_are_the_stated_cost():
    from torch.utils.flop_counter import FlopCounterMode

    x, taps = operands(2, 3, 4, 5, 6, torch.float32)
    with FlopCounterMode(display=False) as counter:
        adder_window(x, taps)
    assert counter.get_total_flops() == adder_window_counts(2 * 3 * 4 * 5, 6).total == 2 * 3 * 4 * 5 * 12


@pytest.mark.parametrize(
    "taps", [torch.zeros(2, 0), torch.zeros(3, 2), torch.zeros(2, 9)], ids=["none", "heads", "long"]
)
def test_shapes_that_do_not_fit_are_named(taps):
    with pytest.raises(ValueError, match=r"x must be \[B, H, T \+ J - 1, E\]"):
        adder_window(torch.zeros(1, 2, 4, 3), taps)
