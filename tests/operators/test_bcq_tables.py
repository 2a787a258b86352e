"""8-bit look-up tables: how near they come to the float form, and every corner of their integer definition."""

from __future__ import annotations

import pytest
import torch
from conformance import normal
from torch import Tensor

from shiftadd_transformers.operators import bcq_fit, bcq_linear, pack_planes, signed_po2_terms
from shiftadd_transformers.operators.bcq import decode_planes
from shiftadd_transformers.operators.bcq_tables import table_codes, table_grid, table_levels
from shiftadd_transformers.operators.reference import bcq_linear_reference

PLANES = [1, 2, 3, 4]


def _fitted(planes: int, n: int, k: int) -> tuple[Tensor, Tensor]:
    signs, alpha = bcq_fit(normal(n, k, seed=1), planes, n, 1)
    return pack_planes(signs), signed_po2_terms(alpha, 3)


def _ones(k: int) -> tuple[Tensor, Tensor]:
    """A weight of ones: one plane, one output."""
    return pack_planes(torch.ones(1, 1, k)), torch.full((1, 1, k, 1), 64, dtype=torch.int8)


def _both(x: Tensor, packed: Tensor, codes: Tensor, bias: Tensor | None = None) -> Tensor:
    """The operator's answer, checked against the reference to the bit."""
    arguments = x, packed, codes, bias, max(packed.shape[1], 1), 1, 8
    y = bcq_linear(*arguments)
    torch.testing.assert_close(y, bcq_linear_reference(*arguments), rtol=0, atol=0, equal_nan=True)
    return y


# Measured 0.0034, 0.0053, 0.0067 and 0.0075; the more planes, the smaller most products are beside the largest.
@pytest.mark.parametrize(("planes", "most"), [(1, 0.004), (2, 0.006), (3, 0.0075), (4, 0.0085)])
def test_error_against_the_float_form(planes: int, most: float) -> None:
    packed, codes = _fitted(planes, 512, 512)
    x = normal(32, 512)
    exact = bcq_linear(x.double(), packed, codes, None, 512, 1)
    error = bcq_linear(x, packed, codes, None, 512, 1, 8).double() - exact
    assert error.norm() < most * exact.norm()
    assert (error.norm(dim=1) < 0.01 * exact.norm(dim=1)).all()


@pytest.mark.parametrize("planes", PLANES)
def test_levels_and_codes_are_the_decoded_weight(planes: int) -> None:
    packed, codes = _fitted(planes, 30, 44)
    levels = table_levels(codes)
    assert torch.equal(levels, -levels.flip(0))
    weight = levels.gather(0, table_codes(packed, 44).long())
    assert torch.equal(weight, decode_planes(packed, codes, 44, 30, 1, torch.float32))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("planes", PLANES)
def test_equals_the_reference_at_every_magnitude(planes: int, dtype: torch.dtype) -> None:
    """From subnormals to where the grid saturates and the sum overflows, and mixed within a row."""
    powers = torch.cat([torch.arange(-150, 128, 9), torch.tensor([127, 1023])]).double()
    x = (normal(len(powers), 40, dtype=torch.float64) * torch.exp2(powers).unsqueeze(1)).to(dtype)
    mixed = (normal(8, 40, dtype=torch.float64) * torch.exp2(3 * normal(8, 40, seed=5, dtype=torch.float64))).to(dtype)
    packed, codes = _fitted(planes, 9, 40)
    _both(torch.cat([x, mixed]), packed, codes, normal(9, seed=2))


@pytest.mark.parametrize("scale", [2.0**60, 2.0**-60])
def test_equals_the_reference_for_levels_far_from_one(scale: float) -> None:
    codes = signed_po2_terms(normal(3, 1, 40, seed=3) * scale, 3)
    packed = pack_planes(torch.where(normal(3, 9, 40, seed=1) > 0, 1, -1))
    x = normal(20, 40) * torch.exp2(torch.arange(-100, 100, 10.0)).unsqueeze(1)
    _both(x, packed, codes)


@pytest.mark.parametrize("k", [1032, 1033, 5000])
def test_sums_beyond_float32_are_exact(k: int) -> None:
    packed, codes = _fitted(2, 3, k)
    _both(normal(4, k), packed, codes)


def test_sums_beyond_int32_are_exact() -> None:
    k = 140000
    assert 127 * 128 * k > 1 << 31
    assert _both(torch.full((1, k), 127.0), *_ones(k)).item() == 127 * k


def test_the_exponent_is_the_smallest_that_holds_the_largest_product() -> None:
    at = torch.tensor([127.0, 1.0, 126.0, 63.5, 64.0, 2.0**-126, 3e38])
    above = torch.nextafter(at, torch.tensor(torch.inf))
    exponents = torch.arange(-300, 300).double()
    for value in torch.cat([at, above]):
        (exponent,), _ = table_grid(value.view(1, 1), torch.ones(2, 1))
        holds = exponents[127 * torch.exp2(exponents) >= value.double()]
        assert exponent.item() == holds[0].clamp(-119, 120).item()


def test_small_columns_keep_up_to_seven_more_bits() -> None:
    _, shift = table_grid(127 * torch.exp2(-torch.arange(10.0)).unsqueeze(0), torch.ones(2, 10))
    assert shift.tolist() == [[7, 6, 5, 4, 3, 2, 1, 0, 0, 0]]
    packed, codes = _ones(3)
    # The first column has steps of 1, the others of 2**-7: 1/256 is a tie there, as 126.5 is in the first.
    assert _both(torch.tensor([[127.0, 65 / 128, 1 / 256]]), packed, codes).item() == 127 + 65 / 128
    assert _both(torch.tensor([[126.5, 0.0, 0.0]]), packed, codes).item() == 126


def test_rows_do_not_know_each_other() -> None:
    packed, codes = _fitted(3, 7, 30)
    x = normal(5, 30) * torch.tensor([1.0, 1e3, 1e-3, 0.0, torch.inf]).unsqueeze(1)
    together = bcq_linear(x, packed, codes, None, 7, 1, 8)
    alone = torch.cat([bcq_linear(row, packed, codes, None, 7, 1, 8) for row in x.split(1)])
    assert torch.equal(together[:4], alone[:4])
    assert together[4].isnan().all()


@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_a_row_of_zeros_gives_plus_zero_then_the_bias(zero: float) -> None:
    packed, codes = _fitted(2, 7, 30)
    x, bias = torch.full((1, 30), zero), normal(7)
    y = _both(x, packed, codes)
    assert (y == 0).all()
    assert not y.signbit().any()
    assert torch.equal(_both(x, packed, codes, bias)[0], bias)


@pytest.mark.parametrize("fault", [torch.inf, -torch.inf, torch.nan])
def test_a_fault_shows_in_the_whole_row(fault: float) -> None:
    packed, codes = _fitted(2, 7, 30)
    codes[..., 3, :] = 0  # a column of zeros hides nothing
    x = normal(3, 30)
    x[1, 3] = fault
    y = _both(x, packed, codes, normal(7))
    assert y[1].isnan().all()
    assert y[[0, 2]].isfinite().all()


def test_float64_beyond_float32_is_a_fault() -> None:
    assert _both(torch.tensor([[1e39, 1.0]], dtype=torch.float64), *_ones(2)).isnan().all()


def test_the_registered_operator_computes_in_floats_unless_told() -> None:
    packed, codes = _fitted(2, 7, 30)
    x = normal(3, 30)
    y = torch.ops.shiftadd.bcq_linear(x, packed, codes, None, 7, 1)
    assert torch.equal(y, bcq_linear(x, packed, codes, None, 7, 1, 0))


def test_mistakes_are_explained() -> None:
    packed, codes = _fitted(2, 7, 30)
    x = normal(3, 30)
    with pytest.raises(ValueError, match="must be 0"):
        bcq_linear(x, packed, codes, None, 7, 1, 4)
    with pytest.raises(ValueError, match=r"one scale per column and plane .* use activation_bits=0"):
        bcq_linear(x, packed, codes.repeat(1, 2, 1, 1), None, 4, 1, 8)
    with pytest.raises(ValueError, match="col_group=30"):
        bcq_linear(x, packed, codes[:, :, :1], None, 7, 30, 8)
    with pytest.raises(ValueError, match="and 6 planes"):
        bcq_linear(x, packed.repeat(3, 1, 1), codes.repeat(3, 1, 1, 1), None, 7, 1, 8)
