"""Which operand types do the operators of this library compute with?

`OpCounts` says how many operations a layer performs, its spec says how wide they are. The split:

* shift, float activations: everything at the activation's type;
* shift, int8 activations: weights' shifts at the width that holds the shifted value (INT16 if eight bits plus
  the largest shift fit, else INT32), accumulates and scale shifts at INT32, bias and quantisation at the
  float type;
* adder on the int8 grid: subtractions INT8, accumulates INT32, the rest (grid, centring, normalisation, scale) at
  the float type;
* binary coding, float activations: everything at the activation's type;
* binary coding, 8-bit tables: look-ups INT8, shifts by a column's step INT16, accumulates and scale shifts INT32,
  bias and the building of tables at the float type. The tables stay inside the layer, so its input is moved as it
  comes;
* mixture: everything at the activation's type, rows charged to the experts by the shares measured in training. The
  weights of both experts are read, as a batch sends rows to both.
"""

from __future__ import annotations

from math import log2

from torch import Tensor

from ..layers.base import OperatorModule
from ..operators.counts import (
    OpCounts,
    quantize_grid_counts,
    quantize_rows_counts,
    quantize_tables_counts,
    shift_linear_counts,
)
from ..specs import AdderSpec, BcqSpec, ShiftAddSpec, ShiftSpec
from .report import LinearShape, Row, merge_operations


def operator_row(name: str, module: OperatorModule, x: Tensor, out: Tensor, first: bool) -> Row:
    """What one call of a layer of ours costs.

    Args:
        name: Module name.
        module: The layer.
        x: Its input ``[..., K]``.
        out: Its output ``[..., N]``.
        first: Whether this is its first call in the forward, the one that reads its weights.
    """
    floating = str(x.dtype).removeprefix("torch.")
    rows = x.numel() // max(module.in_features, 1)
    input_type, input_bytes = floating, x.numel() * x.element_size()
    if reads_int8(module):
        input_type, input_bytes = "int8", x.numel()
    moved: dict[str, int] = {input_type: input_bytes}
    output_type = str(out.dtype).removeprefix("torch.")
    moved[output_type] = moved.get(output_type, 0) + out.numel() * out.element_size()
    shape = LinearShape(rows, module.out_features, module.in_features, module.bias is not None)
    weights = {"stored": module.stored_bytes() if first else 0}
    return Row(name, module.spec.kind, operations(module, rows, floating), weights, moved, (shape,))


def reads_int8(module: OperatorModule) -> bool:
    """Whether the layer's array reads its activations as int8."""
    spec = module.spec
    return (isinstance(spec, ShiftSpec) and spec.activation_bits == 8) or (
        isinstance(spec, AdderSpec) and spec.bits == 8
    )


def operations(module: OperatorModule, rows: int, floating: str) -> dict[str, OpCounts]:
    """Counts by operand type for ``rows`` rows of activations of type ``floating``."""
    spec, total = module.spec, module.counts(rows)
    n, k = module.out_features, module.in_features
    if isinstance(spec, ShiftSpec) and spec.activation_bits == 8:
        return _int8_shift(module, spec, rows, floating)
    if isinstance(spec, AdderSpec) and spec.bits == 8:
        return _int8_adder(total, rows, n, k, floating)
    if isinstance(spec, BcqSpec) and spec.activation_bits == 8:
        return _int8_tables(module, spec, rows, floating)
    if isinstance(spec, ShiftAddSpec):
        first = shift_linear_counts(rows, n, k)
        return merge_operations({floating: first}, _int8_adder(total - first, rows, n, n, floating))
    return {floating: total}


def _int8_shift(module: OperatorModule, spec: ShiftSpec, rows: int, floating: str) -> dict[str, OpCounts]:
    n, k, total = module.out_features, module.in_features, module.counts(rows)
    weights = OpCounts(shift=rows * n * k * spec.terms)
    bias = OpCounts(add=rows * n * (module.bias is not None))
    largest_shift = int(log2(max(spec.format.magnitudes)))
    shifted = "int16" if 8 + largest_shift <= 16 else "int32"
    integer = {"int32": total - weights - bias}
    float_part = {floating: bias + quantize_rows_counts(rows, k, n)}
    return merge_operations(merge_operations({shifted: weights}, integer), float_part)


def _int8_tables(module: OperatorModule, spec: BcqSpec, rows: int, floating: str) -> dict[str, OpCounts]:
    n, k, total = module.out_features, module.in_features, module.counts(rows)
    lookups, steps = OpCounts(lookup=rows * n * k), OpCounts(shift=rows * n * k)
    bias = OpCounts(add=rows * n * (module.bias is not None))
    integer = total - lookups - steps - bias
    tables = quantize_tables_counts(rows, k, spec.planes)
    return {"int8": lookups, "int16": steps, "int32": integer, floating: bias + tables}


def _int8_adder(total: OpCounts, rows: int, n: int, k: int, floating: str) -> dict[str, OpCounts]:
    taps = OpCounts(add=rows * n * k)
    grid = quantize_grid_counts(rows, k) + OpCounts(shift=rows * n)  # onto the grid, and back to float
    return {"int8": taps, "int32": taps, floating: total - taps * 2 + grid}
