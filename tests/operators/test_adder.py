"""The adder operators: memory, tiling, formulas, the integer grid."""

from __future__ import annotations

import pytest
import torch
from conformance import normal, peak_bytes

from shiftadd_transformers.operators import adder, adder_linear, adder_linear_int8
from shiftadd_transformers.operators.reference import (
    adder_input_gradient_reference,
    adder_linear_reference,
    adder_weight_gradient_reference,
)

MIB = 1 << 20


def _memory_bound(m: int, n: int, k: int) -> int:
    """Two tiles, and float32 copies of low-precision operands in the weight gradient."""
    return 3 * 4 * adder._TILE_ELEMENTS["cpu"] + 4 * (m * k + m * n + 3 * n * k)


def test_memory_bound_at_the_promised_size() -> None:
    assert _memory_bound(4096, 1024, 1024) < 64 * MIB


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_memory_stays_within_the_bound(dtype: torch.dtype) -> None:
    m, n, k = 2048, 128, 128
    x, w = (normal(*s, dtype=dtype).requires_grad_() for s in ((m, k), (n, k)))
    results = []
    forward = peak_bytes(lambda: results.append(adder_linear(x, w)))
    y = results[0]
    backward = peak_bytes(lambda: y.backward(torch.ones_like(y)))
    bound = _memory_bound(m, n, k)
    assert bound < m * n * k * 4 / 8, "the test is too small to tell"
    assert forward - y.nbytes <= bound
    assert backward - y.nbytes - x.nbytes - w.nbytes <= bound


@pytest.mark.parametrize("elements", [1, 7, 64, 1 << 19])
def test_any_tiling_gives_the_same_numbers(elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adder, "_TILE_ELEMENTS", {"cpu": elements})
    x, w, g = normal(11, 5), normal(23, 5, seed=1), normal(11, 23, seed=2)
    torch.testing.assert_close(adder_linear(x, w).double(), adder_linear_reference(x, w), rtol=1e-6, atol=1e-6)
    actual = adder.adder_input_gradient(g, x, w).double()
    torch.testing.assert_close(actual, adder_input_gradient_reference(g, x, w), rtol=1e-5, atol=1e-5)


def test_gradient_operator_is_well_formed() -> None:
    torch.library.opcheck(adder.adder_input_gradient, (normal(3, 4), normal(3, 8), normal(4, 8)))


def test_weight_gradient_identity() -> None:
    """g^T x - w * (g^T 1) is the sum over rows of (x - w) g, without the [M, N, K] tensor."""
    x, w, g = (normal(*s, dtype=torch.float64) for s in ((40, 13), (17, 13), (40, 17)))
    expected = adder_weight_gradient_reference(g, x, w)
    torch.testing.assert_close(adder.adder_weight_gradient(g, x, w), expected, rtol=1e-12, atol=1e-12)


def test_low_precision_accumulates_in_float32() -> None:
    """In bfloat16 a running sum of ones stops at 256."""
    x = torch.ones(1, 4096, dtype=torch.bfloat16)
    assert adder_linear(x, torch.zeros_like(x)).item() == -4096


def test_operands_of_different_dtype() -> None:
    x, w = normal(3, 8, dtype=torch.bfloat16).requires_grad_(), normal(4, 8, seed=1).requires_grad_()
    y = adder_linear(x, w)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y, adder_linear_reference(x, w).to(torch.bfloat16))
    y.sum().backward()
    assert x.grad.dtype == torch.bfloat16
    assert w.grad.dtype == torch.float32


def test_gradient_only_where_it_is_asked_for() -> None:
    x, w = normal(3, 8), normal(4, 8, seed=1).requires_grad_()
    adder_linear(x, w).sum().backward()
    assert x.grad is None
    assert w.grad is not None


@pytest.mark.parametrize("k", [100, 70_000])
def test_integer_distance_is_exact(k: int) -> None:
    """Above K = 65793 a worst-case sum leaves float32's exact integers."""
    x = torch.full((1, k), 127.0)
    x[0, 0] = 126.0
    weight = torch.full((1, k), -127, dtype=torch.int8)
    y = adder_linear_int8(x.double(), weight, torch.tensor(0, dtype=torch.int8))
    assert y.item() == torch.tensor(float(-(254 * k - 1)), dtype=torch.float32).item()


def test_grid_rounds_half_to_even_and_saturates() -> None:
    weight, exponent = torch.zeros(1, 1, dtype=torch.int8), torch.tensor(-1, dtype=torch.int8)
    x = torch.tensor([[0.25], [0.75], [-0.75], [1e9], [-torch.inf]])
    assert adder_linear_int8(x, weight, exponent).flatten().tolist() == [0.0, -1.0, -1.0, -63.5, -63.5]


def test_equals_the_float_operator_on_the_grid() -> None:
    exponent = torch.tensor(-4, dtype=torch.int8)
    weight = (normal(6, 20, seed=1) * 16).round().clamp(-127, 127)
    x = (normal(5, 20) * 16).round().clamp(-127, 127) / 16
    assert torch.equal(adder_linear_int8(x, weight.to(torch.int8), exponent), adder_linear(x, weight / 16))


def test_mistakes_are_explained() -> None:
    with pytest.raises(ValueError, match="int8"):
        adder_linear_int8(torch.zeros(2, 3), torch.zeros(4, 3), torch.tensor(0, dtype=torch.int8))
    with pytest.raises(ValueError, match="scalar"):
        adder_linear_int8(torch.zeros(2, 3), torch.zeros(4, 3, dtype=torch.int8), torch.zeros(4, dtype=torch.int8))
    with pytest.raises(ValueError, match="features"):
        adder_linear(torch.zeros(2, 3), torch.zeros(4, 5))
