"""What exactly is an 8-bit look-up table?

With one scale per column and plane, a weight of column ``k`` is one of ``2**P`` levels, and a product with ``x[m, k]``
one of ``2**P`` entries of a table that is built once per row of ``x``. The entries become int8 on a grid that a row
shares up to powers of two, so that the sum is an exact integer and every kernel, on any target, can be compared to the
bit. Every step below is an IEEE float32 operation with one rounding, or exact. Per row of ``x``, converted to float32
and each with its own grid:

* *levels*, of the weight alone: ``L_k[c] = sum_p ±alpha[p, k]``, plus where bit ``p`` of the code ``c`` is set, planes
  in ascending order, starting from 0; the terms of a scale are added in their order first. ``top_k = max_c |L_k[c]|``.
* *products*: ``t_k[c] = x_k * L_k[c]``; the largest of a column is ``a_k = |x_k| * top_k``.
* *grid*: ``e_k`` is the smallest integer with ``a_k <= 127 * 2**e_k``, read from the bits of ``a_k``. ``E`` is the
  largest ``e_k`` of the columns whose ``a_k`` is not 0, clamped to -119..120 (-119 without any). Column ``k`` has the
  step ``2**(E - 7 + s_k)`` with ``s_k = clamp(e_k - (E - 7), 0, 7)``: small columns keep up to seven more bits.
* *entries*: ``q_k[c] = clamp(round_half_even(t_k[c] * 2**-(E - 7 + s_k)), -127, 127)``.
* *sum*: ``sum_k q_k[c[n, k]] * 2**s_k``, an exact integer of at most ``127 * 128 * K``: it fits int32 up to
  ``K = 132104``, beyond that a wider accumulator is needed, never a wrapped one. It is converted to float32 (round to
  nearest even) and multiplied by ``2**(E - 7)``.

A row that holds an infinity or a NaN once it is float32 gives NaN. A row of zeros gives +0. The exponent field of a
subnormal ``a_k`` may be taken as it stands: ``s_k`` is 0 for every ``e_k`` up to -126. Hardware that flushes
subnormal products agrees wherever ``E`` is above -119, as they round to 0 there.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .exponent_bits import power_of_two
from .packing import unpack_planes
from .po2 import from_po2_terms

_INT8_MAX = 127
_FINER_BITS = 7
_LOWEST, _HIGHEST = -119, 120
# 127 is 1.984375 * 2**6. What lies between its mantissa and the next exponent, in units of the last bit.
_ABOVE_127 = (1 << 23) - 1 - 0x7E0000
_FIELD_OF_127 = 127 + 6


def lookup_linear(rows: Tensor, planes_packed: Tensor, scale_codes: Tensor) -> Tensor:
    """The integer semantics of the module docstring, before the bias.

    Args:
        rows: floating ``[M, K]``.
        planes_packed: uint8 ``[P, N, ceil(K/8)]``, P at least 1.
        scale_codes: int8 ``[P, 1, K, terms]``.

    Returns:
        float32 ``[M, N]``.

    >>> planes = torch.tensor([[[0b01]], [[0b11]]], dtype=torch.uint8)
    >>> scales = torch.tensor([65, 65, 64, 64], dtype=torch.int8).view(2, 1, 2, 1)
    >>> lookup_linear(torch.tensor([[1.0, 10.0]]), planes, scales)
    tensor([[-7.]])
    """
    rows, k = rows.to(torch.float32), rows.shape[1]
    levels, codes = table_levels(scale_codes), table_codes(planes_packed, k)
    exponent, shift = table_grid(rows, levels)
    # Sums of integers are exact in floats while they fit the mantissa.
    exact = torch.float32 if (_INT8_MAX << _FINER_BITS) * k <= 1 << 24 else torch.float64
    sums = torch.zeros(rows.shape[0], codes.shape[0], dtype=exact, device=rows.device)
    half = len(levels) // 2
    for code, level in enumerate(levels[:half]):
        # Flipping all bits of a code negates its level and so its entry: one product serves both.
        chosen = (codes == code).to(exact) - (codes == len(levels) - 1 - code).to(exact)
        entries = table_entries(rows, level, exponent, shift) * power_of_two(shift, torch.float32)
        sums += entries.to(exact) @ chosen.t()
    unit = power_of_two(exponent - _FINER_BITS, torch.float32)
    sound = torch.isfinite(rows).all(-1, keepdim=True)
    return sums.to(torch.float32) * torch.where(sound, unit, torch.nan)


def table_levels(scale_codes: Tensor) -> Tensor:
    """What every code stands for in every column.

    Args:
        scale_codes: int8 ``[P, 1, K, terms]``; ``[P, 0, K, terms]`` for a weight without rows counts as zeros.

    Returns:
        float32 ``[2**P, K]``.

    >>> table_levels(torch.tensor([65, 64], dtype=torch.int8).view(2, 1, 1, 1)).flatten().tolist()
    [-3.0, 1.0, -1.0, 3.0]
    """
    alpha = from_po2_terms(scale_codes).sum(1)
    codes = torch.arange(2 ** len(alpha), device=alpha.device).unsqueeze(1)
    levels = alpha.new_zeros(len(codes), alpha.shape[1])
    for plane, scale in enumerate(alpha):
        levels = levels + torch.where((codes >> plane) & 1 > 0, scale, -scale)
    return levels


def table_codes(planes_packed: Tensor, k: int) -> Tensor:
    """Which entry each weight reads: bit ``p`` is set where plane ``p`` has +1.

    Args:
        planes_packed: uint8 ``[P, N, ceil(K/8)]``, P at most 8.
        k: number of columns K.

    Returns:
        uint8 ``[N, K]``.

    >>> table_codes(torch.tensor([[[0b01]], [[0b11]]], dtype=torch.uint8), 2).tolist()
    [[3, 2]]
    """
    codes = torch.zeros(planes_packed.shape[1], k, dtype=torch.uint8, device=planes_packed.device)
    for plane, signs in enumerate(unpack_planes(planes_packed, k)):
        codes |= (signs > 0).to(torch.uint8) << plane
    return codes


def table_grid(rows: Tensor, levels: Tensor) -> tuple[Tensor, Tensor]:
    """The step of every column's table, ``2**(exponent - 7 + shift)``.

    Args:
        rows: float32 ``[M, K]``.
        levels: float32 ``[2**P, K]``.

    Returns:
        ``E``, int32 ``[M, 1]`` in -119..120, and ``s``, int32 ``[M, K]`` in 0..7. Where a row holds an infinity or a
        NaN they are within these ranges and mean nothing.

    >>> table_grid(torch.tensor([[127.0, 128.0, 1.0, 0.0]]), torch.tensor([[-1.0] * 4, [1.0] * 4]))
    (tensor([[1]], dtype=torch.int32), tensor([[6, 7, 0, 0]], dtype=torch.int32))
    """
    largest = rows.abs() * levels.abs().amax(0)
    # A mantissa above that of 127 carries into the exponent field. Zeros read as -133, below every E.
    smallest = ((largest.view(torch.int32) + _ABOVE_127) >> 23) - _FIELD_OF_127
    # One column more, at the lower bound: it clamps, and stands in where there is no column at all.
    exponent = F.pad(smallest, (0, 1), value=_LOWEST).amax(-1, keepdim=True).clamp(max=_HIGHEST)
    return exponent, (smallest - (exponent - _FINER_BITS)).clamp(0, _FINER_BITS)


def table_entries(rows: Tensor, level: Tensor, exponent: Tensor, shift: Tensor) -> Tensor:
    """One code's entry in the table of every column.

    Args:
        rows: float32 ``[M, K]``.
        level: float32 ``[K]``, a row of :func:`table_levels`.
        exponent: int32 ``[M, 1]`` of :func:`table_grid`.
        shift: int32 ``[M, K]`` of :func:`table_grid`.

    Returns:
        integers in -127..127 as float32 ``[M, K]``; NaN where the product is.

    >>> rows, levels = torch.tensor([[127.0, 128.0, 1.0]]), torch.tensor([[-1.0] * 3, [1.0] * 3])
    >>> table_entries(rows, levels[1], *table_grid(rows, levels)).tolist()
    [[127.0, 64.0, 64.0]]
    """
    scaled = (rows * level) * power_of_two(_FINER_BITS - exponent - shift, torch.float32)
    return scaled.round_().clamp_(-_INT8_MAX, _INT8_MAX)
