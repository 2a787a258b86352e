"""Which sign planes and power-of-two scales come closest to a weight?

All groups are solved at once. A group is a rectangle of the weight, laid out as one row of ``[groups, size]``; ragged
rectangles at the lower and right border are padded, and a mask keeps the padding out of every sum.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from .exponent_bits import work_dtype
from .po2 import from_po2_terms, signed_po2_terms
from .po2_format import check_finite, check_weight

MAX_PLANES = 8
# Weights solved at a time: bounds the float64 planes of a fit to 8 MiB each.
_CHUNK_ELEMENTS = 1 << 20
_RIDGE = 1e-10


def bcq_fit(
    weight: Tensor, planes: int, row_group: int, col_group: int, scale_terms: int = 3, rounds: int = 20
) -> tuple[Tensor, Tensor]:
    """Fit sign planes and power-of-two scales to a weight, by alternating least squares.

    From a greedy start, each round solves for real scales by least squares (Cholesky of the ``P x P`` Gram matrix in
    float64), sorts them by magnitude, rounds them to ``scale_terms`` powers of two and chooses the nearest code of
    every weight. Rounding can undo progress, so each group keeps the best round; the result is never worse than the
    greedy start with its scales rounded.

    Args:
        weight: floating ``[N, K]``.
        planes: number of sign planes ``P``, 1 to 8.
        row_group: rows that share scales.
        col_group: columns that share scales.
        scale_terms: powers of two per scale.
        rounds: alternations after the greedy start.

    Returns:
        signs int8 ±1 ``[P, N, K]`` and alpha ``[P, NG, KG]``: non-negative sums of powers of two, descending where
        rounding left them so, float64 for a float64 weight, else float32.

    Raises:
        ValueError: the weight holds NaN or infinity or is not a matrix; planes, terms or groups are out of range.

    >>> signs, alpha = bcq_fit(torch.tensor([[3.0, -3.0, 1.0, -1.0]]), planes=2, row_group=1, col_group=4)
    >>> alpha.flatten().tolist()
    [2.0, 1.0]

    References: Xu et al., Alternating multi-bit quantization, ICLR 2018; ShiftAddLLM (You et al., NeurIPS 2024).
    Differs: Cholesky in place of a few conjugate-gradient steps; the best round is kept.
    """
    check_weight(weight)
    check_finite(weight)
    if not (1 <= planes <= MAX_PLANES):
        raise ValueError(f"planes must lie in 1..{MAX_PLANES}, got {planes}")
    if rounds < 0:
        raise ValueError(f"rounds must not be negative, got {rounds}")
    dtype = work_dtype(weight.dtype)
    values = _to_groups(weight.detach().to(torch.float64), row_group, col_group)
    mask = _to_groups(torch.ones_like(weight, dtype=torch.float64), row_group, col_group)
    solved = [_solve(v, m, planes, scale_terms, rounds, dtype) for v, m in _chunks(values, mask)]
    n, k = weight.shape
    shape = (planes, -(-n // row_group), -(-k // col_group))
    alpha = torch.cat(solved).t().reshape(shape) if solved else weight.new_zeros(shape, dtype=dtype)
    return bcq_codes(weight, alpha, row_group, col_group), alpha


def bcq_codes(weight: Tensor, alpha: Tensor, row_group: int, col_group: int) -> Tensor:
    """The signs of the nearest representable value of every weight, under given scales.

    Args:
        weight: floating ``[N, K]``.
        alpha: floating ``[P, NG, KG]``, any order and sign.
        row_group: rows that share scales.
        col_group: columns that share scales.

    Returns:
        int8 ±1 ``[P, N, K]``. A weight half-way between two values takes the larger.

    Raises:
        ValueError: the weight is not a matrix, or the number of scales does not fit.

    >>> bcq_codes(torch.tensor([[0.9, -2.6]]), torch.tensor([[[2.0]], [[1.0]]]), 1, 2).tolist()
    [[[1, -1]], [[-1, -1]]]
    """
    check_weight(weight)
    planes, (n, k) = alpha.shape[0], weight.shape
    expected = (planes, -(-n // row_group), -(-k // col_group))
    if tuple(alpha.shape) != expected:
        raise ValueError(f"alpha must have shape {expected}, got {tuple(alpha.shape)}")
    work = torch.promote_types(work_dtype(weight.dtype), work_dtype(alpha.dtype))
    values = _to_groups(weight.detach().to(work), row_group, col_group)
    signs = _nearest_signs(values, alpha.detach().to(work).reshape(planes, -1).t())
    return torch.stack([_from_groups(plane, n, k, row_group, col_group) for plane in signs.unbind(-1)])


def _solve(values: Tensor, mask: Tensor, planes: int, terms: int, rounds: int, dtype: torch.dtype) -> Tensor:
    """Scales ``[groups, P]`` in `dtype` for ``values [groups, size]``; ``mask`` is 1 inside and 0 in the padding."""
    best = _rounded(_greedy(values, mask, planes), terms, dtype)
    signs = _nearest_signs(values, best.to(values.dtype)).to(values.dtype)
    error = _error(values, mask, signs, best)
    for _ in range(rounds):
        alpha = _rounded(_least_squares(values, mask, signs), terms, dtype)
        changed = _nearest_signs(values, alpha.to(values.dtype)).to(values.dtype)
        settled = torch.equal(changed, signs)
        signs, new_error = changed, _error(values, mask, changed, alpha)
        better = new_error < error
        best, error = torch.where(better.unsqueeze(1), alpha, best), torch.where(better, new_error, error)
        if settled:
            break
    return best


def _greedy(values: Tensor, mask: Tensor, planes: int) -> Tensor:
    """Scale after scale, each the mean magnitude of what is left: ``[groups, P]``."""
    residual, count, alpha = values, mask.sum(1).clamp(min=1), []
    for _ in range(planes):
        alpha.append((residual.abs() * mask).sum(1) / count)
        residual = residual - torch.where(residual >= 0, 1.0, -1.0) * alpha[-1].unsqueeze(1)
    return torch.stack(alpha, 1)


def _least_squares(values: Tensor, mask: Tensor, signs: Tensor) -> Tensor:
    """Real scales that minimise the squared error of fixed signs ``[groups, size, P]``."""
    masked = signs * mask.unsqueeze(-1)
    gram = masked.transpose(1, 2) @ signs
    # Equal or opposite planes make the Gram singular; the ridge then shares their scale between them.
    trace = gram.diagonal(dim1=1, dim2=2).sum(1).clamp(min=1)
    gram = gram + _RIDGE * trace.view(-1, 1, 1) * torch.eye(signs.shape[2], dtype=gram.dtype, device=gram.device)
    right = masked.transpose(1, 2) @ values.unsqueeze(-1)
    return torch.cholesky_solve(right, torch.linalg.cholesky(gram)).squeeze(-1)


def _rounded(alpha: Tensor, terms: int, dtype: torch.dtype) -> Tensor:
    """Magnitudes in descending order as sums of powers of two; flipped signs are absorbed by the planes."""
    ordered = alpha.abs().sort(dim=1, descending=True).values
    return from_po2_terms(signed_po2_terms(ordered, terms), dtype)


def _error(values: Tensor, mask: Tensor, signs: Tensor, alpha: Tensor) -> Tensor:
    decoded = (signs @ alpha.to(values.dtype).unsqueeze(-1)).squeeze(-1)
    return ((values - decoded).square() * mask).sum(1)


def _nearest_signs(values: Tensor, alpha: Tensor) -> Tensor:
    """int8 ±1 ``[groups, size, P]``: values meet the midpoints of each group's sorted codebook ``[groups, 2**P]``."""
    patterns = torch.tensor(list(product((-1, 1), repeat=alpha.shape[1])), dtype=torch.int8, device=alpha.device)
    codebook, order = (alpha @ patterns.to(alpha.dtype).t()).sort(dim=1, stable=True)
    middle = (codebook[:, 1:] + codebook[:, :-1]) / 2
    rank = torch.searchsorted(middle.contiguous(), values.contiguous(), right=True)
    return patterns[order.gather(1, rank)]


def _to_groups(weight: Tensor, row_group: int, col_group: int) -> Tensor:
    """``[N, K]`` to ``[NG*KG, row_group*col_group]``, padded with zeros."""
    if not (row_group > 0 and col_group > 0):
        raise ValueError(f"groups must be positive, got {row_group} rows, {col_group} columns")
    n, k = weight.shape
    padded = F.pad(weight, (0, -k % col_group, 0, -n % row_group))
    blocks = padded.view(padded.shape[0] // row_group, row_group, padded.shape[1] // col_group, col_group)
    return blocks.transpose(1, 2).reshape(-1, row_group * col_group)


def _from_groups(groups: Tensor, n: int, k: int, row_group: int, col_group: int) -> Tensor:
    """Inverse of :func:`_to_groups`, without the padding."""
    rows, columns = -(-n // row_group), -(-k // col_group)
    blocks = groups.view(rows, columns, row_group, col_group).transpose(1, 2)
    return blocks.reshape(rows * row_group, columns * col_group)[:n, :k]


def _chunks(values: Tensor, mask: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    if values.shape[0] == 0:
        return iter(())
    count = max(1, _CHUNK_ELEMENTS // values.shape[1])
    return zip(values.split(count), mask.split(count), strict=True)
