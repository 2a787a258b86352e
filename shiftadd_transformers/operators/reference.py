"""What does each operator mean? One naive function per operator, written for reading.

These are the oracle for every implementation on every target. They compute in float64, build whatever intermediate
makes the formula plain, and share no arithmetic with the fast code: bits are read one by one, powers of two come from
Python. Float operators return float64; integer operators have one exact answer and return the dtype of ``x``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .po2_format import Po2Format


def shift_linear_reference(
    x: Tensor,
    weight_packed: Tensor,
    weight_exponent: Tensor,
    bias: Tensor | None = None,
    bits: int = 4,
    terms: int = 1,
    zero: bool = True,
    group_size: int = 0,
    activation_bits: int = 0,
) -> Tensor:
    """``y = x W^T + bias`` with power-of-two weights; arguments as in :func:`~.shift.shift_linear`.

    Returns:
        float64 ``[..., N]``, or with ``activation_bits=8`` the exact answer in the dtype of ``x``.
    """
    k, fmt = x.shape[-1], Po2Format(bits, terms, zero)
    integers = signed_magnitudes(read_codes(weight_packed, bits, k), fmt)
    group = torch.arange(k, device=x.device) // (group_size or max(k, 1))
    if activation_bits:
        return _integer_linear(x, integers, weight_exponent, group, bias)
    weight = integers.double() * exact_power(weight_exponent)[:, group]
    y = (x.double().unsqueeze(-2) * weight).sum(-1)
    return y if bias is None else y + bias.double()


def adder_linear_reference(x: Tensor, weight: Tensor) -> Tensor:
    """``y = -sum_k |x - w|``, float64 ``[..., N]``."""
    return -(x.double().unsqueeze(-2) - weight.double()).abs().sum(-1)


def adder_weight_gradient_reference(grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """``gW[n, k] = sum_m (x[m, k] - w[n, k]) * g[m, n]``, float64 ``[N, K]``."""
    difference = _rows(x).unsqueeze(1) - weight.double()
    return (difference * _rows(grad).unsqueeze(-1)).sum(0)


def adder_input_gradient_reference(grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """``gX[m, k] = sum_n clamp(w[n, k] - x[m, k], -1, 1) * g[m, n]``, float64, of the shape of ``x``."""
    difference = weight.double() - x.double().unsqueeze(-2)
    return (difference.clamp(-1, 1) * grad.double().unsqueeze(-1)).sum(-2)


def adder_linear_int8_reference(x: Tensor, weight_packed: Tensor, exponent: Tensor) -> Tensor:
    """``y = -2**e * sum_k |round(x * 2**-e) - w|`` with integers in ±127, exact, in the dtype of ``x``."""
    step = 2.0 ** int(exponent)
    grid = (x.float().double() / step).round().clamp(-127, 127)
    distance = (grid.unsqueeze(-2) - weight_packed.double()).abs().sum(-1)
    return (-distance.float() * step).to(x.dtype)


def shift_add_linear_reference(
    x: Tensor,
    weight_packed: Tensor,
    weight_exponent: Tensor,
    adder_weight: Tensor,
    adder_exponent: Tensor,
    bits: int = 4,
    terms: int = 1,
    zero: bool = True,
    group_size: int = 0,
) -> Tensor:
    """The shift layer, rounded to the dtype of ``x``, then the 8-bit adder layer; in the dtype of ``x``."""
    hidden = shift_linear_reference(x, weight_packed, weight_exponent, None, bits, terms, zero, group_size)
    return adder_linear_int8_reference(hidden.to(x.dtype), adder_weight, adder_exponent)


def bcq_linear_reference(
    x: Tensor,
    planes_packed: Tensor,
    scale_codes: Tensor,
    bias: Tensor | None,
    row_group: int,
    col_group: int,
    activation_bits: int = 0,
) -> Tensor:
    """``y = x W^T + bias`` with ``W = sum_p alpha_p * B_p``; arguments as in :func:`~.bcq.bcq_linear`.

    Returns:
        float64 ``[..., N]``, or with ``activation_bits=8`` the exact answer in the dtype of ``x``.
    """
    n, k = planes_packed.shape[1], x.shape[-1]
    if activation_bits:
        return _lookup_linear(x, read_codes(planes_packed, 1, k), scale_codes, bias)
    signs = read_codes(planes_packed, 1, k).double() * 2 - 1
    codes = scale_codes.long()
    alpha = (codes.sign() * exact_power(codes.abs() - 64)).sum(-1)
    row, column = torch.arange(n, device=x.device) // row_group, torch.arange(k, device=x.device) // col_group
    weight = (alpha[:, row][:, :, column] * signs).sum(0)
    y = (x.double().unsqueeze(-2) * weight).sum(-1)
    return y if bias is None else y + bias.double()


def matadd_reference(signs_packed: Tensor, values: Tensor) -> Tensor:
    """``y = B V`` with ``B`` of ±1, float64 ``[..., M, N]``."""
    signs = read_codes(signs_packed, 1, values.shape[-2]).double() * 2 - 1
    return (signs.unsqueeze(-1) * values.double().unsqueeze(-3)).sum(-2)


def matadd_right_reference(x: Tensor, signs_packed: Tensor) -> Tensor:
    """``y = X B^T`` with ``B`` of ±1, float64 ``[..., M, N]``."""
    signs = read_codes(signs_packed, 1, x.shape[-1]).double() * 2 - 1
    return (x.double().unsqueeze(-2) * signs.unsqueeze(-3)).sum(-1)


def read_codes(packed: Tensor, bits: int, k: int) -> Tensor:
    """Codes ``[..., k]`` from the little-endian bit stream of each row, int64."""
    stream = (packed.long().unsqueeze(-1) >> torch.arange(8, device=packed.device)) & 1
    single = stream.flatten(-2)[..., : k * bits].reshape(*packed.shape[:-1], k, bits)
    return (single << torch.arange(bits, device=packed.device)).sum(-1)


def signed_magnitudes(codes: Tensor, fmt: Po2Format) -> Tensor:
    """The integers ``±magnitude`` that codes stand for, int64."""
    table = torch.tensor(fmt.magnitudes, device=codes.device)
    negative = codes >> (fmt.bits - 1)
    return table[codes & ((1 << (fmt.bits - 1)) - 1)] * (1 - 2 * negative)


def exact_power(exponent: Tensor) -> Tensor:
    """``2**exponent`` in float64, by Python's own arithmetic."""
    powers = [math.ldexp(1.0, e) for e in exponent.flatten().tolist()]
    return torch.tensor(powers, dtype=torch.float64, device=exponent.device).view(exponent.shape)


def _integer_linear(x: Tensor, weight: Tensor, exponent: Tensor, group: Tensor, bias: Tensor | None) -> Tensor:
    rows = _rows(x.detach().float()).float()
    scale = torch.stack([_row_scale(row) for row in rows]) if len(rows) else rows.new_zeros(0)
    codes = torch.nan_to_num((rows / scale.unsqueeze(1)).round().clamp(-127, 127)).long()
    products = codes.unsqueeze(1) * weight
    total = torch.zeros(len(rows), len(weight), dtype=torch.float32, device=x.device)
    for g in range(exponent.shape[1]):
        sums = products[:, :, group == g].sum(-1)
        total = total + sums.float() * exact_power(exponent[:, g]).float()
    y = total * scale.unsqueeze(1)
    y = y if bias is None else y + bias.float()
    return y.to(x.dtype).reshape(*x.shape[:-1], len(weight))


def _row_scale(row: Tensor) -> Tensor:
    """``max|x| / 127``; 1 for rows too small to scale, NaN for rows with a fault."""
    scale = row.abs().max() / 127 if len(row) else row.new_zeros(())
    if not torch.isfinite(scale):
        return row.new_tensor(math.nan)
    return scale if scale >= 2.0**-126 else row.new_ones(())


def _lookup_linear(x: Tensor, bits: Tensor, scale_codes: Tensor, bias: Tensor | None) -> Tensor:
    codes = sum((plane << p for p, plane in enumerate(bits)), torch.zeros_like(bits[0]))
    rows = _rows(x.detach().float())
    y = torch.zeros(len(rows), len(codes), dtype=torch.float64, device=x.device)
    if len(codes):
        levels = _table_levels(scale_codes[:, 0])
        for m, row in enumerate(rows):
            y[m] = _table_sum(row, levels, codes)
    y = y if bias is None else _rounded(y + bias.float().double())
    return y.to(x.dtype).reshape(*x.shape[:-1], len(codes))


def _table_levels(scale_codes: Tensor) -> Tensor:
    """What every code stands for in every column, float64 ``[2**P, K]``, from int8 ``[P, K, terms]``."""
    wide = scale_codes.long()
    terms = wide.sign() * exact_power(wide.abs() - 64)
    zeros = torch.zeros(wide.shape[1], dtype=torch.float64, device=wide.device)
    alpha = []
    for plane in terms:
        total = zeros
        for term in plane.unbind(-1):
            total = _rounded(total + term)
        alpha.append(total)
    levels = []
    for code in range(2 ** len(alpha)):
        total = zeros
        for p, scale in enumerate(alpha):
            total = _rounded(total + scale if (code >> p) & 1 else total - scale)
        levels.append(total)
    return torch.stack(levels)


def _table_sum(row: Tensor, levels: Tensor, codes: Tensor) -> Tensor:
    """One row ``[K]`` against weights that are table codes ``[N, K]``: float64 ``[N]``."""
    if not torch.isfinite(row).all():
        return row.new_full((len(codes),), math.nan)
    largest = _rounded(row.abs() * levels.abs().amax(0))
    low, high = -160, 130
    bounds = torch.tensor([math.ldexp(127.0, e) for e in range(low, high)], dtype=torch.float64, device=row.device)
    smallest = low + torch.searchsorted(bounds, largest)
    row_exponent = min(max([-119, *smallest[largest > 0].tolist()]), 120)
    shift = (smallest - (row_exponent - 7)).clamp(0, 7)
    step = exact_power(row_exponent - 7 + shift)
    table = (_rounded(row * levels) / step).round().clamp(-127, 127).long()
    sums = (table.gather(0, codes) << shift).sum(-1)
    return _rounded(_rounded(sums.double()) * math.ldexp(1.0, row_exponent - 7))


def _rounded(value: Tensor) -> Tensor:
    """To float32 and back. A float64 sum or product of two float32 rounds to float32 as if it had been exact."""
    return value.float().double()


def _rows(x: Tensor) -> Tensor:
    return x.double().reshape(math.prod(x.shape[:-1]), x.shape[-1])
