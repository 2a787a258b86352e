"""Which real numbers can a power-of-two code stand for, and which code is nearest?

A weight is ``sign * magnitude * 2**exponent``: the magnitude is a small integer with one, two or three bits set
(so a product is one, two or three shifts), the exponent is shared by a group of weights. Everything here is exact:
scales are built from exponent bits, never through ``pow``, and rounding happens only where a code is chosen.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .exponent_bits import floor_log2, nearest_power, power_of_two, work_dtype
from .po2_fit import fit_exponent, po2_round
from .po2_format import Po2Format, check_finite, check_weight, group_count, threshold_tensor

__all__ = [
    "TERM_BIAS",
    "Po2Format",
    "code_values",
    "dequantize_codes",
    "fit_exponent",
    "from_po2_terms",
    "group_count",
    "po2_round",
    "power_of_two",
    "quantize_codes",
    "signed_po2_terms",
]

TERM_BIAS = 64
"""A signed term code is ``sign * (exponent + 64)``; exponents run from -63 to 63, code 0 means no term."""


def quantize_codes(weight: Tensor, exponent: Tensor, fmt: Po2Format, group_size: int | None = None) -> Tensor:
    """Nearest code of every weight under given exponents.

    Args:
        weight: floating ``[N, K]``.
        exponent: int8 ``[N, G]`` in -126..120.
        fmt: the code format.
        group_size: weights of a row that share an exponent; ``None`` for the whole row.

    Returns:
        uint8 ``[N, K]``.

    Raises:
        ValueError: shapes do not fit, or the weight holds an infinity or a NaN.

    >>> quantize_codes(torch.tensor([[1.0, -0.7, 0.0]]), torch.tensor([[-2]], dtype=torch.int8), Po2Format(3)).tolist()
    [[3, 6, 0]]
    """
    check_weight(weight)
    check_finite(weight)
    _check_exponent(exponent, weight.shape[0], weight.shape[1], group_size)
    work = work_dtype(weight.dtype)
    scale = _expand_groups(power_of_two(-exponent.to(torch.int32), work), weight.shape[1], group_size)
    scaled = weight.detach().to(work).abs() * scale
    index = torch.bucketize(scaled, threshold_tensor(fmt, scaled), right=True, out_int32=True).to(torch.uint8)
    negative = weight < 0
    if fmt.zero:
        negative = negative & (index > 0)
    return index | (negative.to(torch.uint8) << (fmt.bits - 1))


def dequantize_codes(
    codes: Tensor, exponent: Tensor, fmt: Po2Format, group_size: int | None = None, dtype: torch.dtype = torch.float32
) -> Tensor:
    """The numbers that codes stand for.

    Exact in float64, float32 and bfloat16. float16 rounds what lies outside its range.

    Args:
        codes: uint8 ``[N, K]``, below ``2**bits``.
        exponent: int8 ``[N, G]`` in -126..120.
        fmt: the code format.
        group_size: weights of a row that share an exponent; ``None`` for the whole row.
        dtype: floating dtype of the result.

    Returns:
        ``[N, K]``.

    Raises:
        ValueError: shapes do not fit.

    >>> codes = torch.tensor([[3, 6, 0]], dtype=torch.uint8)
    >>> dequantize_codes(codes, torch.tensor([[-2]], dtype=torch.int8), Po2Format(3)).tolist()
    [[1.0, -0.5, 0.0]]
    """
    _check_exponent(exponent, codes.shape[0], codes.shape[1], group_size)
    work = work_dtype(dtype)
    scale = _expand_groups(power_of_two(exponent, work), codes.shape[1], group_size)
    return (code_values(codes, fmt, work) * scale).to(dtype)


def code_values(codes: Tensor, fmt: Po2Format, dtype: torch.dtype) -> Tensor:
    """The signed integers that codes stand for, before the exponent.

    Args:
        codes: uint8, any shape, below ``2**bits``.
        fmt: the code format.
        dtype: dtype of the result.

    Returns:
        ``sign * magnitude``, of ``codes``' shape.

    >>> code_values(torch.tensor([0, 3, 7], dtype=torch.uint8), Po2Format(3), torch.int32).tolist()
    [0, 4, -4]
    """
    table = torch.tensor((*fmt.magnitudes, *(-m for m in fmt.magnitudes)), dtype=dtype, device=codes.device)
    return table.index_select(0, codes.reshape(-1).to(torch.int32)).view(codes.shape)


def signed_po2_terms(alpha: Tensor, terms: int) -> Tensor:
    """Write a real as a sum of signed powers of two, greedily.

    ``alpha ~ sum_j s_j * 2**e_j`` with ``e_j = round(log2|r_j|)``, ``s_j = sign(r_j)`` and ``r_j`` what the terms
    before have left. Each residual carries its own sign: dropping it (as a released kernel does) costs tenfold in
    accuracy.

    Args:
        alpha: floating, any shape.
        terms: number of terms, at least 1.

    Returns:
        int8 ``[..., terms]``: ``s * (e + 64)``, or 0 where the residual is zero or below ``2**-63.5``.

    Raises:
        ValueError: ``terms`` is not positive, or ``alpha`` holds an infinity or a NaN.

    >>> signed_po2_terms(torch.tensor([1.5, 0.0]), 2).tolist()
    [[65, -63], [0, 0]]

    References: ShiftAddLLM (You et al., 2024), §4.1.
    """
    if terms < 1:
        raise ValueError(f"terms must be at least 1, got {terms}")
    check_finite(alpha)
    # Subtracting the nearest power of two from a float is exact, so float32 is enough for float32.
    residual = alpha.detach().to(work_dtype(alpha.dtype))
    codes = []
    for _ in range(terms):
        exponent = floor_log2(nearest_power(residual.abs()))
        present = exponent > -TERM_BIAS
        code = torch.where(present, exponent.clamp(max=63) + TERM_BIAS, 0) * residual.sign().to(torch.int32)
        codes.append(code.to(torch.int8))
        residual = residual - _term_value(codes[-1], residual.dtype)
    return torch.stack(codes, -1)


def from_po2_terms(codes: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Inverse of :func:`signed_po2_terms`: the sum of the terms, added in their order.

    Args:
        codes: int8 ``[..., terms]``.
        dtype: floating dtype of the result; the sum is made in float64 for float64, else in float32.

    Returns:
        ``[...]``.

    >>> from_po2_terms(torch.tensor([[65, -63]], dtype=torch.int8)).tolist()
    [1.5]
    """
    values = _term_value(codes, work_dtype(dtype)).unbind(-1)
    return sum(values[1:], start=values[0]).to(dtype)


def _term_value(codes: Tensor, dtype: torch.dtype) -> Tensor:
    wide = codes.to(torch.int32)
    return power_of_two(wide.abs() - TERM_BIAS, dtype) * wide.sign()


def _expand_groups(scale: Tensor, k: int, group_size: int | None) -> Tensor:
    """``[N, G]`` to something that broadcasts over ``[N, K]``."""
    if group_size is None or group_size >= k:
        return scale
    return scale.repeat_interleave(group_size, dim=1)[:, :k]


def _check_exponent(exponent: Tensor, n: int, k: int, group_size: int | None) -> None:
    expected = (n, group_count(k, group_size))
    if exponent.dtype != torch.int8 or tuple(exponent.shape) != expected:
        raise ValueError(
            f"exponent must be int8 {expected} for a [{n}, {k}] weight with group_size={group_size}, "
            f"got {exponent.dtype} {tuple(exponent.shape)}"
        )
