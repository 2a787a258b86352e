"""Packing is an exact bijection with the layout that is documented."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shiftadd_transformers.operators import pack_codes, pack_planes, packed_width, unpack_codes, unpack_planes
from shiftadd_transformers.operators.reference import read_codes

WIDTHS = st.integers(1, 8)
LENGTHS = st.integers(0, 130)
SEEDS = st.integers(0, 2**31)


def _codes(bits: int, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 1 << bits, shape, generator=generator).to(torch.uint8)


@given(WIDTHS, LENGTHS, SEEDS)
@settings(max_examples=150, deadline=None)
def test_codes_come_back(bits: int, k: int, seed: int) -> None:
    codes = _codes(bits, (3, k), seed)
    packed = pack_codes(codes, bits)
    assert packed.shape == (3, packed_width(k, bits))
    assert packed.dtype == torch.uint8
    assert torch.equal(unpack_codes(packed, bits, k), codes)
    assert torch.equal(read_codes(packed, bits, k), codes.long())


@given(LENGTHS, SEEDS)
@settings(max_examples=50, deadline=None)
def test_planes_come_back(k: int, seed: int) -> None:
    signs = _codes(1, (2, 3, k), seed).to(torch.int8) * 2 - 1
    packed = pack_planes(signs)
    assert packed.shape == (2, 3, -(-k // 8))
    assert torch.equal(unpack_planes(packed, k), signs)
    assert torch.equal(pack_planes(signs.float()), packed)


@pytest.mark.parametrize("bits", range(1, 9))
def test_layout_is_a_little_endian_stream_padded_with_zeros(bits: int) -> None:
    codes = _codes(bits, (11,), 0)
    stream = sum(code << (i * bits) for i, code in enumerate(codes.tolist()))
    expected = stream.to_bytes(packed_width(11, bits), "little")
    assert bytes(pack_codes(codes, bits).tolist()) == expected


def test_non_contiguous_rows_and_one_axis() -> None:
    codes = _codes(3, (9, 4), 1).t()
    assert torch.equal(unpack_codes(pack_codes(codes, 3), 3, 9), codes)
    assert torch.equal(pack_codes(codes[0], 3), pack_codes(codes, 3)[0])


def test_mistakes_are_explained() -> None:
    with pytest.raises(ValueError, match=r"1\.\.8"):
        pack_codes(torch.zeros(4, dtype=torch.uint8), 9)
    with pytest.raises(ValueError, match="uint8"):
        pack_codes(torch.zeros(4), 4)
    with pytest.raises(ValueError, match="8 bytes per row"):
        unpack_codes(torch.zeros(2, 4, dtype=torch.uint8), 4, 16)
