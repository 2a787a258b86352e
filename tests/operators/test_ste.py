"""Straight-through estimators: exact values, stated gradients."""

from __future__ import annotations

import math

import pytest
import torch
from conformance import normal
from torch import Tensor

from shiftadd_transformers.operators import (
    Po2Format,
    code_values,
    denseshift_tensors_from,
    denseshift_weight,
    indicator_ste,
    po2_scale_ste,
    ps_tensors_from,
    ps_weight,
    sign_ste,
    straight_through,
)


def _gradient(function, *leaves: Tensor) -> tuple[Tensor, ...]:
    leaves = tuple(leaf.clone().requires_grad_() for leaf in leaves)
    grad = normal(*leaves[0].shape, seed=5, dtype=leaves[0].dtype)
    return grad, *torch.autograd.grad(function(*leaves), leaves, grad)


@pytest.mark.parametrize(
    ("function", "values", "expected"),
    [
        (sign_ste, [-2.0, -0.0, 0.0, 3.0], [-1.0, 1.0, 1.0, 1.0]),
        (indicator_ste, [-2.0, -0.0, 0.0, 3.0], [0.0, 1.0, 1.0, 1.0]),
        (po2_scale_ste, [-3.0, 0.7, 0.0, 1e30], [-4.0, 0.5, 0.0, 2.0**100]),
    ],
)
def test_value_and_identity_gradient(function, values: list[float], expected: list[float]) -> None:
    x = torch.tensor(values)
    assert function(x).tolist() == expected
    grad, grad_x = _gradient(function, x)
    assert torch.equal(grad_x, grad)


def test_straight_through_is_exact_and_does_not_hide_faults() -> None:
    x, y = torch.tensor([0.1, torch.nan]), torch.tensor([1e-30, 1.0])
    assert straight_through(x, y)[0] == y[0]
    assert straight_through(x, y)[1].isnan()
    assert po2_scale_ste(torch.tensor(torch.nan)).isnan()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_po2_scale_stays_finite(dtype: torch.dtype) -> None:
    assert torch.isfinite(po2_scale_ste(torch.tensor([torch.finfo(dtype).max], dtype=dtype))).all()


@pytest.mark.parametrize("bits", [2, 3, 4, 5])
def test_ps_forward_and_gradients(bits: int) -> None:
    lowest = -(2 ** (bits - 1) - 2)
    shift = normal(20, 30, dtype=torch.float64) * 2 * max(-lowest, 1)
    sign = normal(20, 30, seed=1, dtype=torch.float64)
    weight = ps_weight(shift, sign, bits)
    sigma = torch.sign(torch.round(sign.clamp(-1, 1)))
    expected = torch.exp2(shift.clamp(lowest, 0).round()) * sigma
    assert torch.equal(weight, expected)
    grad, grad_shift, grad_sign = _gradient(lambda s, t: ps_weight(s, t, bits), shift, sign)
    torch.testing.assert_close(grad_shift, grad * expected * math.log(2))
    assert torch.equal(grad_sign, grad)


@pytest.mark.parametrize("bits", [2, 3, 4, 5])
def test_ps_starts_from_any_code(bits: int) -> None:
    codes = torch.arange(1 << bits, dtype=torch.uint8).view(2, -1)
    codes[1, 0] = 0  # minus zero is no code
    shift, sign = ps_tensors_from(codes, bits)
    top = 2 ** (2 ** (bits - 1) - 2)
    assert torch.equal(ps_weight(shift, sign, bits) * top, code_values(codes, Po2Format(bits), torch.float32))


def _released_denseshift(sign: Tensor, t1: Tensor, t2: Tensor, t3: Tensor) -> Tensor:
    """The 3-bit recursion, written out."""
    s = (t1 >= 0).double()
    s = (s + 1) * (t2 >= 0).double()
    s = (s + 1) * (t3 >= 0).double()
    return torch.where(sign >= 0, 1.0, -1.0) * 2.0**s


def test_denseshift_forward_is_the_recursion() -> None:
    sign, shift = normal(20, 30, dtype=torch.float64), normal(3, 20, 30, seed=1, dtype=torch.float64)
    assert torch.equal(denseshift_weight(sign, shift), _released_denseshift(sign, *shift))


def test_denseshift_gradient_is_that_of_the_surrogate() -> None:
    """Indicators pass gradients unchanged, so each step's derivative is the product rule on forward values."""
    sign, shift = normal(4, 5, dtype=torch.float64), normal(3, 4, 5, seed=1, dtype=torch.float64)
    leaves = [sign.clone().requires_grad_(), shift.clone().requires_grad_()]
    grad = normal(4, 5, seed=2, dtype=torch.float64)
    denseshift_weight(*leaves).backward(grad)
    on = (shift >= 0).double()
    s1 = on[0]
    s2 = (s1 + 1) * on[1]
    s3 = (s2 + 1) * on[2]
    signum = torch.where(sign >= 0, 1.0, -1.0).double()
    outer = grad * signum / (2 * torch.sqrt(s3 + 1))
    expected = torch.stack([outer * on[2] * on[1], outer * on[2] * (s1 + 1), outer * (s2 + 1)])
    torch.testing.assert_close(leaves[1].grad, expected)
    torch.testing.assert_close(leaves[0].grad, grad * torch.sqrt(s3 + 1))


@pytest.mark.parametrize("count", [1, 3, 7, 15])
def test_denseshift_starts_from_any_level_with_low_variance(count: int) -> None:
    exponent = torch.arange(count + 1).repeat(40, 1)
    sign = torch.where(normal(40, count + 1) > 0, 1, -1)
    tensors = denseshift_tensors_from(exponent, sign, count, std=1e-3)
    assert tensors[1].shape == (count, 40, count + 1)
    assert torch.equal(denseshift_weight(*tensors), sign * 2.0**exponent)
    for tensor in tensors:
        assert tensor.abs().max() < 1e-2


def test_mistakes_are_explained() -> None:
    with pytest.raises(ValueError, match="S_max"):
        denseshift_weight(torch.zeros(2, 3), torch.zeros(3, 2, 4))
    with pytest.raises(ValueError, match=r"0\.\.3"):
        denseshift_tensors_from(torch.tensor([4]), torch.tensor([1]), 3)
    with pytest.raises(ValueError, match=r"2\.\.5"):
        ps_weight(torch.zeros(2), torch.zeros(2), 7)
