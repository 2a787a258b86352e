"""The int8 activation is defined to the bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shiftadd_transformers.operators import quantize_rows_int8

ROWS = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=20)


@given(ROWS)
@settings(max_examples=200, deadline=None)
def test_codes_and_scale_are_numpy_float32_to_the_bit(row: list[float]) -> None:
    x = np.array(row, dtype=np.float32)
    scale = np.abs(x).max() / np.float32(127)
    if scale < np.finfo(np.float32).smallest_normal:
        scale = np.float32(1)
    expected = np.clip(np.rint(x / scale), -127, 127).astype(np.int8)
    codes, actual = quantize_rows_int8(torch.from_numpy(x))
    assert actual.item() == scale
    assert codes.tolist() == expected.tolist()


def test_halves_round_to_even() -> None:
    codes, scale = quantize_rows_int8(torch.tensor([127.0, 0.5, 1.5, 2.5, -0.5, -1.5]))
    assert scale.item() == 1
    assert codes.tolist() == [127, 0, 2, 2, 0, -2]


def test_rows_are_independent_and_zero_rows_have_scale_one() -> None:
    x = torch.tensor([[0.0, 0.0], [1.0, -254.0], [1e-44, 0.0]])
    codes, scale = quantize_rows_int8(x)
    assert scale.flatten().tolist() == [1, 2, 1]
    assert codes.tolist() == [[0, 0], [0, -127], [0, 0]]


@pytest.mark.parametrize("fault", [torch.nan, torch.inf, -torch.inf])
def test_a_fault_shows_in_the_scale(fault: float) -> None:
    codes, scale = quantize_rows_int8(torch.tensor([[1.0, fault], [1.0, 2.0]]))
    assert codes[0].tolist() == [0, 0]
    assert scale[0].isnan()
    assert codes[1].tolist() == [64, 127]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_other_dtypes_go_through_float32(dtype: torch.dtype) -> None:
    x = torch.randn(5, 33).to(dtype)
    for actual, expected in zip(quantize_rows_int8(x), quantize_rows_int8(x.float()), strict=True):
        assert torch.equal(actual, expected)


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (2, 3, 5)])
def test_shapes(shape: tuple[int, ...]) -> None:
    codes, scale = quantize_rows_int8(torch.randn(shape))
    assert codes.shape == shape
    assert scale.shape == (*shape[:-1], 1)


def test_integers_are_refused() -> None:
    with pytest.raises(ValueError, match="floating"):
        quantize_rows_int8(torch.zeros(3, dtype=torch.int32))
