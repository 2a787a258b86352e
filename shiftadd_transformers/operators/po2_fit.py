"""Which exponent fits a group of weights best, and how are weights rounded at every training step?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from .exponent_bits import floor_log2, nearest_power, power_of_two, work_dtype
from .po2_format import (
    MAX_EXPONENT,
    MIN_EXPONENT,
    Po2Format,
    check_finite,
    check_weight,
    group_count,
    threshold_tensor,
)

# Order matters: the first of equally good exponents wins.
_OFFSETS = (0, 1, -1, -2)
# All borders of several-term formats, in units of 2**(base-2) and coarser, are multiples of 1/8.
_STEPS = 8
# Elements worked on at a time on a CPU: bounds the dozen temporaries of a fit (1 MiB each).
_CACHED_ELEMENTS = 1 << 18


def fit_exponent(weight: Tensor, fmt: Po2Format, group_size: int | None = None) -> Tensor:
    """Choose the shared exponent of every group by least squares.

    With ``e0 = floor(log2(max|w| / top))`` the candidates are ``e0-2 .. e0+1``; equal errors prefer ``e0``.

    Args:
        weight: floating ``[N, K]``.
        fmt: the code format.
        group_size: weights of a row that share an exponent; ``None`` for the whole row.

    Returns:
        int8 ``[N, G]`` in -126..120. A group of zeros gets 0, or -126 in a format that has no zero.

    Raises:
        ValueError: the weight is not a matrix, or holds an infinity or a NaN.

    >>> fit_exponent(torch.tensor([[0.5, 0.25, 0.0]]), Po2Format(3)).tolist()
    [[-3]]
    """
    check_weight(weight)
    check_finite(weight)
    if weight.numel() == 0:
        return weight.new_zeros((weight.shape[0], group_count(weight.shape[1], group_size)), dtype=torch.int8)
    return _blockwise(weight, group_size, lambda rows: _fit(rows, fmt, _level_table(fmt, rows)).exponent).to(torch.int8)


def po2_round(weight: Tensor, fmt: Po2Format, group_size: int | None = None) -> Tensor:
    """Round a weight to its power-of-two format: quantise and dequantise in one go, without gradient.

    Equal to ``dequantize_codes(quantize_codes(weight, e, ...), e, ...)`` with ``e = fit_exponent(weight, ...)``.
    Runs at every training step, so nothing is read back from the device: a group with an infinity or a NaN comes
    out as NaN instead of raising.

    Args:
        weight: floating ``[N, K]``.
        fmt: the code format.
        group_size: weights of a row that share an exponent; ``None`` for the whole row.

    Returns:
        the weight's shape and dtype.

    Raises:
        ValueError: the weight is not a floating matrix.

    >>> po2_round(torch.tensor([[1.0, 0.7, 0.3, 0.01]]), Po2Format(3)).tolist()
    [[1.0, 0.5, 0.25, 0.0]]
    """
    check_weight(weight)
    group_count(weight.shape[1], group_size)
    if weight.numel() == 0:
        return torch.zeros_like(weight)
    table = _level_table(fmt, weight)
    return _blockwise(weight, group_size, lambda rows: _round(rows, fmt, table)).to(weight.dtype)


class _Fit(NamedTuple):
    """What was found for rows ``[n, g, size]``; everything per group is ``[n, g, 1]``."""

    levels: _OneTerm | _ManyTerms
    base: Tensor
    offset: Tensor
    exponent: Tensor
    fault: Tensor  # 0, or NaN for a group that holds an infinity or a NaN


class _OneTerm:
    """Levels that are single powers of two, rounded in the log domain."""

    def __init__(self, unit: Tensor, fmt: Po2Format) -> None:
        self.unit, self.fmt, self.nearest = unit, fmt, nearest_power(unit)

    def distance(self, offset: int) -> Tensor:
        """How far each magnitude is from its level under ``2**offset``."""
        away = (self.unit - self.nearest.clamp(2.0**offset, self.fmt.top * 2.0**offset)).abs_()
        # Zero is its level exactly where zero is nearer than the smallest power.
        return torch.minimum(away, self.unit) if self.fmt.zero else away

    def snap(self, offset: Tensor) -> Tensor:
        """The levels under a chosen offset per group."""
        scale = power_of_two(offset, self.unit.dtype)
        level = torch.clamp(self.nearest, scale, self.fmt.top * scale)
        return level * (self.unit >= scale / 2) if self.fmt.zero else level


class _ManyTerms:
    """Levels that are sums of powers, looked up in a table over a grid that holds all borders."""

    def __init__(self, unit: Tensor, table: Tensor) -> None:
        self.unit, self.table = unit, table
        self.index = (unit * _STEPS).nan_to_num_(0.0).clamp_(max=table.shape[1] - 1).to(torch.int32)

    def distance(self, offset: int) -> Tensor:
        """How far each magnitude is from its level under ``2**offset``."""
        return self.unit - _look_up(self.table[_OFFSETS.index(offset)], self.index)

    def snap(self, offset: Tensor) -> Tensor:
        """The levels under a chosen offset per group."""
        row = sum((offset == value).to(torch.int32) * i for i, value in enumerate(_OFFSETS))
        return _look_up(self.table.flatten(), self.index + row * self.table.shape[1])


def _fit(rows: Tensor, fmt: Po2Format, table: Tensor) -> _Fit:
    """Least squares over the candidates, in units of ``2**base`` so that no square overflows or underflows."""
    magnitude = rows.to(work_dtype(rows.dtype)).abs()
    largest = magnitude.amax(-1, keepdim=True)
    limit = min(MAX_EXPONENT, math.frexp(torch.finfo(rows.dtype).max / fmt.top)[1] - 1)
    base = floor_log2(largest / fmt.top).clamp(MIN_EXPONENT, limit)
    unit = magnitude * power_of_two(-base, magnitude.dtype)
    levels = _OneTerm(unit, fmt) if fmt.terms == 1 else _ManyTerms(unit, table)
    best, offset = torch.full_like(largest, torch.inf), torch.zeros_like(base)
    for candidate in _OFFSETS:
        error = torch.linalg.vector_norm(levels.distance(candidate), dim=-1, keepdim=True)
        better = (error < best) & (base + candidate >= MIN_EXPONENT) & (base + candidate <= limit)
        best, offset = torch.where(better, error, best), torch.where(better, candidate, offset)
    exponent = torch.where(largest == 0, 0, base + offset) if fmt.zero else base + offset
    return _Fit(levels, base, offset, exponent, largest * 0)


def _round(rows: Tensor, fmt: Po2Format, table: Tensor) -> Tensor:
    fit = _fit(rows, fmt, table)
    magnitude = fit.levels.snap(fit.offset) * (power_of_two(fit.base, fit.levels.unit.dtype) + fit.fault)
    # No code stands for -0: adding 0 makes it 0, on the way in (a weight of -0) or out (rounded to zero).
    return torch.copysign(magnitude, rows) + 0.0 if fmt.zero else torch.copysign(magnitude, rows + 0.0)


def _level_table(fmt: Po2Format, like: Tensor) -> Tensor:
    """Level of every grid point, one row per candidate offset, in units of ``2**base``."""
    if fmt.terms == 1:
        return like.new_empty(0)
    grid = torch.arange(2 * fmt.top * _STEPS, dtype=work_dtype(like.dtype), device=like.device) / _STEPS
    levels = torch.tensor(fmt.magnitudes, dtype=grid.dtype, device=like.device)
    borders = threshold_tensor(fmt, grid)
    return torch.stack([levels[torch.bucketize(grid * 2.0**-c, borders, right=True)] * 2.0**c for c in _OFFSETS])


def _look_up(table: Tensor, index: Tensor) -> Tensor:
    return table.index_select(0, index.reshape(-1)).view(index.shape)


def _blockwise(weight: Tensor, group_size: int | None, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply a function of ``[n, g, size]`` to all groups, and lay the results side by side as a matrix."""
    parts = []
    for block in _split_groups(weight.detach(), group_size):
        parts.append(torch.cat([function(rows).flatten(1) for rows in _split_rows(block)]))
    return torch.cat(parts, 1)


def _split_groups(weight: Tensor, group_size: int | None) -> Iterator[Tensor]:
    """Cut ``[N, K]`` into blocks ``[N, g, size]``: whole groups, and the shorter last one by itself."""
    n, k = weight.shape
    size = k if group_size is None else min(group_size, k)
    whole = k // size * size
    yield weight[:, :whole].reshape(n, whole // size, size)
    if whole < k:
        yield weight[:, whole:].unsqueeze(1)


def _split_rows(block: Tensor) -> tuple[Tensor, ...]:
    if block.device.type != "cpu" or torch.compiler.is_compiling():
        return (block,)
    return block.split(max(1, _CACHED_ELEMENTS // (block.shape[1] * block.shape[2])))
