"""How do small codes lie in bytes?

One rule for every width: a row is a little-endian bit stream. Byte ``j`` holds bits ``8j .. 8j+7`` of its row, code
``i`` occupies bits ``i*bits .. (i+1)*bits - 1``, and the last byte is filled with zero bits. Rows never share a byte.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def packed_width(k: int, bits: int) -> int:
    """Number of bytes that hold ``k`` codes of ``bits`` bits each.

    Args:
        k: number of codes in one row.
        bits: width of one code, 1 to 8.

    Returns:
        ``ceil(k * bits / 8)``.

    Raises:
        ValueError: ``bits`` is outside 1..8.

    >>> packed_width(63, 3)
    24
    """
    _check_bits(bits)
    return (k * bits + 7) // 8


def pack_codes(codes: Tensor, bits: int) -> Tensor:
    """Pack codes of ``bits`` bits along the last axis.

    Args:
        codes: uint8 ``[..., K]``, every value below ``2**bits``; bits above are dropped.
        bits: width of one code, 1 to 8.

    Returns:
        uint8 ``[..., ceil(K*bits/8)]``.

    Raises:
        ValueError: ``codes`` is not uint8 or ``bits`` is outside 1..8.

    >>> pack_codes(torch.tensor([1, 2, 3], dtype=torch.uint8), 4).tolist()
    [33, 3]
    """
    _check_bits(bits)
    _check_uint8(codes, "codes")
    width = packed_width(codes.shape[-1], bits)
    # Eight codes fill exactly `bits` bytes, so one int64 word per eight codes never splits a code.
    padded = F.pad(codes, (0, -codes.shape[-1] % 8)).to(torch.int64) & ((1 << bits) - 1)
    words = (padded.unflatten(-1, (-1, 8)) << _steps(8, bits, codes)).sum(-1, dtype=torch.int64)
    octets = (words.unsqueeze(-1) >> _steps(bits, 8, codes)) & 255
    return octets.flatten(-2).to(torch.uint8)[..., :width].contiguous()


def unpack_codes(packed: Tensor, bits: int, k: int) -> Tensor:
    """Inverse of :func:`pack_codes`.

    Args:
        packed: uint8 ``[..., ceil(K*bits/8)]``.
        bits: width of one code, 1 to 8.
        k: number of codes in one row.

    Returns:
        uint8 ``[..., K]``.

    Raises:
        ValueError: ``packed`` is not uint8, ``bits`` is outside 1..8, or the width does not fit ``k``.

    >>> unpack_codes(torch.tensor([33, 3], dtype=torch.uint8), 4, 3).tolist()
    [1, 2, 3]
    """
    _check_uint8(packed, "packed")
    if packed.shape[-1] != packed_width(k, bits):
        raise ValueError(
            f"{k} codes of {bits} bits take {packed_width(k, bits)} bytes per row, but packed has "
            f"{packed.shape[-1]}: pack with the same bits, or pass the k that was packed"
        )
    if 8 % bits == 0:
        return _unpack_within_bytes(packed, bits)[..., :k]
    return _unpack_across_bytes(packed, bits)[..., :k]


def pack_planes(signs: Tensor) -> Tensor:
    """Pack a plane of signs, one bit each: bit set means +1.

    Args:
        signs: ``[..., K]`` of +1 and -1, any real dtype (zero counts as -1: do not pass it).

    Returns:
        uint8 ``[..., ceil(K/8)]``.

    >>> pack_planes(torch.tensor([1, -1, 1])).tolist()
    [5]
    """
    return pack_codes((signs > 0).to(torch.uint8), 1)


def unpack_planes(packed: Tensor, k: int) -> Tensor:
    """Inverse of :func:`pack_planes`.

    Args:
        packed: uint8 ``[..., ceil(K/8)]``.
        k: number of signs in one row.

    Returns:
        int8 ``[..., K]`` of +1 and -1.

    Raises:
        ValueError: ``packed`` is not uint8, or its width does not fit ``k``.

    >>> unpack_planes(torch.tensor([5], dtype=torch.uint8), 3).tolist()
    [1, -1, 1]
    """
    return unpack_codes(packed, 1, k).to(torch.int8) * 2 - 1


def _unpack_within_bytes(packed: Tensor, bits: int) -> Tensor:
    """Widths that divide 8: no code crosses a byte, all arithmetic stays in uint8."""
    shifts = _steps(8 // bits, bits, packed).to(torch.uint8)
    return ((packed.unsqueeze(-1) >> shifts) & ((1 << bits) - 1)).flatten(-2)


def _unpack_across_bytes(packed: Tensor, bits: int) -> Tensor:
    """Any width: `bits` bytes are joined to one word that holds eight whole codes."""
    # 8*3 bits fit a non-negative int32; wider words need int64.
    word = torch.int32 if bits == 3 else torch.int64
    octets = F.pad(packed, (0, -packed.shape[-1] % bits)).unflatten(-1, (-1, bits)).to(word)
    words = (octets << _steps(bits, 8, packed).to(word)).sum(-1, dtype=word)
    codes = (words.unsqueeze(-1) >> _steps(8, bits, packed).to(word)) & ((1 << bits) - 1)
    return codes.to(torch.uint8).flatten(-2)


def _steps(count: int, step: int, like: Tensor) -> Tensor:
    return torch.arange(0, count * step, step, device=like.device)


def _check_bits(bits: int) -> None:
    if not 1 <= bits <= 8:
        raise ValueError(f"bits must lie in 1..8, got {bits}")


def _check_uint8(tensor: Tensor, name: str) -> None:
    if tensor.dtype != torch.uint8:
        raise ValueError(f"{name} must be uint8, got {tensor.dtype}: convert with .to(torch.uint8)")
