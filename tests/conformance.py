"""One row per operator: how to build its inputs, what it must compute, what its gradients are, what it costs.

`operators/test_conformance.py` runs the same battery over all rows; a new operator only adds its row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from shiftadd_transformers.operators import (
    OpCounts,
    Po2Format,
    adder_linear,
    adder_linear_counts,
    adder_linear_int8,
    bcq_dequantize,
    bcq_linear,
    bcq_linear_counts,
    bcq_lookup_counts,
    dequantize_codes,
    fit_exponent,
    from_po2_terms,
    matadd,
    matadd_counts,
    matadd_right,
    pack_codes,
    pack_planes,
    quantize_codes,
    shift_add_linear,
    shift_add_linear_counts,
    shift_linear,
    shift_linear_counts,
    signed_po2_terms,
    unpack_codes,
    unpack_planes,
)
from shiftadd_transformers.operators.counts import quantize_grid_counts, quantize_rows_counts, quantize_tables_counts
from shiftadd_transformers.operators.reference import (
    adder_input_gradient_reference,
    adder_linear_int8_reference,
    adder_linear_reference,
    adder_weight_gradient_reference,
    bcq_linear_reference,
    matadd_reference,
    matadd_right_reference,
    shift_add_linear_reference,
    shift_linear_reference,
)

Arguments = tuple[Any, ...]


@dataclass(frozen=True)
class Operator:
    """What the battery needs to know.

    `arrange` turns the arguments of `call`, x first, into those of the registered operator. `yardstick` computes the
    same with ordinary torch calls in the dtype of x: low precision may cost twice its error. `gradients` maps an
    argument's position to None where the gradient is the true one, else to the stated surrogate as a function of
    (incoming gradient, arguments).
    """

    name: str
    make: Callable[[int, int, int, torch.dtype], Arguments]
    call: Callable[..., Tensor]
    reference: Callable[..., Tensor]
    yardstick: Callable[..., Tensor]
    gradients: dict[int, Callable[..., Tensor] | None]
    counts: Callable[[int, int, int], OpCounts]
    exact: bool = False
    schema: str = ""
    arrange: Callable[..., Arguments] = lambda *arguments: arguments

    @property
    def op(self) -> Any:
        """The registered overload."""
        return getattr(torch.ops.shiftadd, self.schema or self.name).default


def generator(seed: int = 0) -> torch.Generator:
    """Inputs are the same in every run."""
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normal values."""
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64).to(dtype)


def peak_bytes(function: Callable[[], Any]) -> int:
    """Largest amount of tensor memory alive at once while `function` runs, beyond what was alive before.

    The profiler sees allocations inside operators too, which a dispatch mode does not.
    """
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        function()
    events = profile.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    live = peak = 0
    for _, size in changes:
        live += size
        peak = max(peak, live)
    return peak


def _packed(n: int, k: int, fmt: Po2Format, group_size: int) -> tuple[Tensor, Tensor]:
    weight = normal(n, k, seed=1) * torch.exp2(torch.arange(n) % 7 - 3.0).unsqueeze(1)
    exponent = fit_exponent(weight, fmt, group_size or None)
    return pack_codes(quantize_codes(weight, exponent, fmt, group_size or None), fmt.bits), exponent


def _shift_row(name: str, fmt: Po2Format, group_size: int, bias: bool, activation_bits: int) -> Operator:
    def make(m: int, n: int, k: int, dtype: torch.dtype) -> Arguments:
        vector = normal(n, seed=2, dtype=dtype) if bias else None
        rest = (fmt.bits, fmt.terms, fmt.zero, group_size, activation_bits)
        return normal(m, k, dtype=dtype), *_packed(n, k, fmt, group_size), vector, *rest

    def dense(packed: Tensor, exponent: Tensor, k: int, dtype: torch.dtype) -> Tensor:
        return dequantize_codes(unpack_codes(packed, fmt.bits, k), exponent, fmt, group_size or None, dtype)

    def yardstick(x: Tensor, packed: Tensor, exponent: Tensor, vector: Tensor | None, *_: Any) -> Tensor:
        return F.linear(x, dense(packed, exponent, x.shape[-1], x.dtype), vector)

    def gradient_x(grad: Tensor, x: Tensor, packed: Tensor, exponent: Tensor, *_: Any) -> Tensor:
        return grad @ dense(packed, exponent, x.shape[-1], grad.dtype)

    def counts(m: int, n: int, k: int) -> OpCounts:
        groups = -(-k // group_size) if group_size else 1
        linear = shift_linear_counts(m, n, k, fmt.terms, bias, groups)
        return linear + quantize_rows_counts(m, k, n) if activation_bits else linear

    gradients: dict[int, Any] = {0: gradient_x if activation_bits else None}
    if bias:
        gradients[3] = (lambda grad, *_: grad.sum(0)) if activation_bits else None
    return Operator(
        name,
        make,
        shift_linear,
        shift_linear_reference,
        yardstick,
        gradients,
        counts,
        exact=activation_bits > 0,
        schema="shift_linear",
    )


def _make_adder(m: int, n: int, k: int, dtype: torch.dtype) -> Arguments:
    return normal(m, k, dtype=dtype), normal(n, k, seed=1, dtype=dtype)


def _adder_in_float32(x: Tensor, weight: Tensor) -> Tensor:
    """The sums in float32, stored in the dtype of x: low precision may only round operands and result."""
    return -torch.cdist(x.float(), weight.float(), p=1.0).to(x.dtype)


ADDER = Operator(
    "adder_linear",
    _make_adder,
    adder_linear,
    adder_linear_reference,
    _adder_in_float32,
    {0: adder_input_gradient_reference, 1: adder_weight_gradient_reference},
    adder_linear_counts,
)

GRID = torch.tensor(-5, dtype=torch.int8)


def _templates(n: int, k: int) -> Tensor:
    return (normal(n, k, seed=1) * 32).round().clamp(-127, 127).to(torch.int8)


def _make_adder_int8(m: int, n: int, k: int, dtype: torch.dtype) -> Arguments:
    return normal(m, k, dtype=dtype), _templates(n, k), GRID


def _int8_surrogate(grad: Tensor, x: Tensor, weight: Tensor, exponent: Tensor) -> Tensor:
    return adder_input_gradient_reference(grad, x, weight.double() * 2.0 ** int(exponent))


ADDER_INT8 = Operator(
    "adder_linear_int8",
    _make_adder_int8,
    adder_linear_int8,
    adder_linear_int8_reference,
    adder_linear_int8_reference,
    {0: _int8_surrogate},
    lambda m, n, k: adder_linear_counts(m, n, k, scales=1) + quantize_grid_counts(m, k),
    exact=True,
)

CASCADE = Po2Format(4)


def _make_shift_add(m: int, n: int, k: int, dtype: torch.dtype) -> Arguments:
    packed, exponent = _packed(n, k, CASCADE, 0)
    return normal(m, k, dtype=dtype), packed, exponent, _templates(n, n), GRID, 4, 1, True, 0


def _cascade_weight(x: Tensor, packed: Tensor, exponent: Tensor) -> Tensor:
    return dequantize_codes(unpack_codes(packed, 4, x.shape[-1]), exponent, CASCADE, None, x.dtype)


def _shift_add_yardstick(x: Tensor, packed: Tensor, exponent: Tensor, *rest: Any) -> Tensor:
    return adder_linear_int8_reference(F.linear(x, _cascade_weight(x, packed, exponent)), *rest[:2])


def _shift_add_surrogate(grad: Tensor, x: Tensor, packed: Tensor, exponent: Tensor, *rest: Any) -> Tensor:
    weight = _cascade_weight(x, packed, exponent)
    return _int8_surrogate(grad, F.linear(x, weight), *rest[:2]) @ weight.double()


SHIFT_ADD = Operator(
    "shift_add_linear",
    _make_shift_add,
    shift_add_linear,
    shift_add_linear_reference,
    _shift_add_yardstick,
    {0: _shift_add_surrogate},
    lambda m, n, k: shift_add_linear_counts(m, n, k, scales=1) + quantize_grid_counts(m, n),
)


def _bcq_row(name: str, planes: int, row_group: int, col_group: int, bias: bool, activation_bits: int = 0) -> Operator:
    terms = 3

    def make(m: int, n: int, k: int, dtype: torch.dtype) -> Arguments:
        signs = torch.where(normal(planes, n, k, seed=1) > 0, 1, -1)
        alpha = normal(planes, -(-n // row_group), -(-k // col_group), seed=3)
        vector = normal(n, seed=2, dtype=dtype) if bias else None
        codes = signed_po2_terms(alpha, terms)
        return normal(m, k, dtype=dtype), pack_planes(signs), codes, vector, row_group, col_group, activation_bits

    def dense(packed: Tensor, codes: Tensor, k: int, dtype: torch.dtype) -> Tensor:
        alpha = from_po2_terms(codes, torch.float64)
        return bcq_dequantize(unpack_planes(packed, k), alpha, row_group, col_group).to(dtype)

    def yardstick(x: Tensor, packed: Tensor, codes: Tensor, vector: Tensor | None, *_: Any) -> Tensor:
        return F.linear(x, dense(packed, codes, x.shape[-1], x.dtype), vector)

    def gradient_x(grad: Tensor, x: Tensor, packed: Tensor, codes: Tensor, *_: Any) -> Tensor:
        return grad @ dense(packed, codes, x.shape[-1], grad.dtype)

    def counts(m: int, n: int, k: int) -> OpCounts:
        if activation_bits:
            return bcq_lookup_counts(m, n, k, bias) + quantize_tables_counts(m, k, planes)
        return bcq_linear_counts(m, n, k, planes, terms, row_group, col_group, bias)

    gradients: dict[int, Any] = {0: gradient_x if activation_bits else None}
    if bias:
        gradients[3] = (lambda grad, *_: grad.sum(0)) if activation_bits else None
    return Operator(
        name,
        make,
        bcq_linear,
        bcq_linear_reference,
        yardstick,
        gradients,
        counts,
        exact=activation_bits > 0,
        schema="bcq_linear",
    )


def _make_matadd(m: int, n: int, k: int, dtype: torch.dtype) -> Arguments:
    return normal(m, k, dtype=dtype), pack_planes(torch.where(normal(n, k, seed=1) > 0, 1, -1))


def _matadd_arguments(x: Tensor, signs: Tensor) -> Arguments:
    """The binary operand on the left: its product is that of the rows of x, transposed."""
    return signs, x.mT


def _over_rows(product: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """A product of two batches of matrices as a map over the rows of x: all batches share the signs."""

    def call(x: Tensor, signs: Tensor) -> Tensor:
        matrix = torch.atleast_2d(x)
        y = product(matrix, signs.expand(*matrix.shape[:-2], *signs.shape))
        return y.reshape(*x.shape[:-1], signs.shape[0])

    return call


MATADD = Operator(
    "matadd",
    _make_matadd,
    _over_rows(lambda x, signs: matadd(*_matadd_arguments(x, signs)).mT),
    _over_rows(lambda x, signs: matadd_reference(*_matadd_arguments(x, signs)).mT),
    lambda x, signs: x @ unpack_planes(signs, x.shape[-1]).to(x.dtype).t(),
    {0: None},
    matadd_counts,
    arrange=_matadd_arguments,
)
MATADD_RIGHT = Operator(
    "matadd_right",
    _make_matadd,
    _over_rows(matadd_right),
    _over_rows(matadd_right_reference),
    MATADD.yardstick,
    {0: None},
    matadd_counts,
)

OPERATORS = (
    _shift_row("shift_linear", Po2Format(4), group_size=0, bias=True, activation_bits=0),
    _shift_row("shift_linear_apot_grouped", Po2Format(5, 2), group_size=8, bias=False, activation_bits=0),
    _shift_row("shift_linear_int8", Po2Format(3, zero=False), group_size=0, bias=True, activation_bits=8),
    _shift_row("shift_linear_int8_grouped", Po2Format(4, 3), group_size=8, bias=False, activation_bits=8),
    ADDER,
    ADDER_INT8,
    SHIFT_ADD,
    _bcq_row("bcq_linear_block", planes=3, row_group=2, col_group=8, bias=True),
    _bcq_row("bcq_linear_column", planes=2, row_group=5, col_group=1, bias=False),
    *(
        _bcq_row(f"bcq_linear_int8_{p}", p, row_group=100, col_group=1, bias=p > 2, activation_bits=8)
        for p in (1, 2, 3, 4)
    ),
    MATADD,
    MATADD_RIGHT,
)
