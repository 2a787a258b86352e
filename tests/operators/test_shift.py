"""The shift operator equals the latent layer to the bit, and its integer path is exact."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from conformance import normal

from shiftadd_transformers.operators import (
    Po2Format,
    adder_linear_int8,
    fit_exponent,
    pack_codes,
    po2_round,
    quantize_codes,
    quantize_rows_int8,
    shift_add_linear,
    shift_linear,
)
from shiftadd_transformers.operators.reference import shift_linear_reference

FORMATS = [Po2Format(4), Po2Format(3, zero=False), Po2Format(5, 2), Po2Format(5, zero=False)]


def _pack(weight: torch.Tensor, fmt: Po2Format, group_size: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    exponent = fit_exponent(weight, fmt, group_size or None)
    return pack_codes(quantize_codes(weight, exponent, fmt, group_size or None), fmt.bits), exponent


@pytest.mark.parametrize("fmt", FORMATS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("group_size", [0, 16])
def test_equals_linear_of_the_rounded_weight_to_the_bit(fmt: Po2Format, dtype: torch.dtype, group_size: int) -> None:
    weight, x, bias = normal(9, 50) * 0.05, normal(2, 5, 50, dtype=dtype), normal(9, seed=1, dtype=dtype)
    latent = F.linear(x, po2_round(weight, fmt, group_size or None).to(dtype), bias)
    packed = shift_linear(x, *_pack(weight, fmt, group_size), bias, fmt.bits, fmt.terms, fmt.zero, group_size)
    assert torch.equal(packed, latent)


@pytest.mark.parametrize("k", [300, 5000])
def test_integer_sums_beyond_float32_are_exact(k: int) -> None:
    """5 bits without zero: 127 * 2**15 * K leaves 2**24 at once and 2**31 at K = 517."""
    fmt = Po2Format(5, zero=False)
    weight = torch.exp2(torch.randint(0, 16, (3, k)).float())
    weight[:, 0] = 2.0**15
    x = normal(4, k)
    packed, exponent = _pack(weight, fmt)
    codes, scale = quantize_rows_int8(x)
    sums = (codes.long().unsqueeze(1) * weight.long()).sum(-1)
    assert exponent.flatten().tolist() == [0, 0, 0]
    y = shift_linear(x, packed, exponent, None, 5, 1, False, 0, 8)
    assert torch.equal(y, sums.float() * scale)
    assert torch.equal(y, shift_linear_reference(x, packed, exponent, None, 5, 1, False, 0, 8))


def test_integer_path_does_not_depend_on_batch_mates() -> None:
    fmt = Po2Format(4)
    packed, exponent = _pack(normal(7, 30), fmt, 8)
    x = normal(5, 30) * torch.tensor([1.0, 1e3, 1e-3, 0.0, 7.0]).unsqueeze(1)
    together = shift_linear(x, packed, exponent, group_size=8, activation_bits=8)
    alone = torch.cat([shift_linear(row, packed, exponent, group_size=8, activation_bits=8) for row in x.split(1)])
    assert torch.equal(together, alone)


def test_bias_of_another_dtype() -> None:
    packed, exponent = _pack(normal(7, 30), Po2Format(4))
    bias = normal(7, seed=1).requires_grad_()
    y = shift_linear(normal(2, 30, dtype=torch.bfloat16), packed, exponent, bias)
    y.sum().backward()
    assert y.dtype == torch.bfloat16
    assert bias.grad.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_cascade_is_its_two_halves_to_the_bit(dtype: torch.dtype) -> None:
    packed, exponent = _pack(normal(9, 30), Po2Format(4))
    templates, grid = (normal(9, 9) * 30).round().to(torch.int8), torch.tensor(-3, dtype=torch.int8)
    x = normal(6, 30, seed=3, dtype=dtype)
    halves = adder_linear_int8(shift_linear(x, packed, exponent), templates, grid)
    assert torch.equal(shift_add_linear(x, packed, exponent, templates, grid), halves)


def test_mistakes_are_explained() -> None:
    packed, exponent = _pack(normal(7, 30), Po2Format(4))
    x = normal(2, 30)
    with pytest.raises(ValueError, match="check the last axis of x and the bits"):
        shift_linear(x, packed, exponent, bits=3)
    with pytest.raises(ValueError, match="weight_exponent"):
        shift_linear(x, packed, exponent, group_size=8)
    with pytest.raises(ValueError, match="uint8"):
        shift_linear(x, packed.int(), exponent)
    with pytest.raises(ValueError, match="activation_bits"):
        shift_linear(x, packed, exponent, activation_bits=4)
    with pytest.raises(ValueError, match="bias"):
        shift_linear(x, packed, exponent, torch.zeros(8))
    with pytest.raises(ValueError, match=r"2\.\.5"):
        shift_linear(x, packed, exponent, bits=9)
    with pytest.raises(ValueError, match="adder_weight"):
        shift_add_linear(x, packed, exponent, torch.zeros(7, 6, dtype=torch.int8), torch.tensor(0, dtype=torch.int8))
