"""What would the same model cost with ordinary matrix products, at 32, 16, 8 and 4 bits?

* ``fp32``, ``fp16``: every converted layer as a dense one, and every floating-point operation, weight and
  activation of the whole model at that width.
* ``int8``: every matrix product with stored weights, converted or not, multiplies int8 and accumulates int32;
  weights are moved at 8 bits with one 32-bit scale per output, activations at one byte in and out (the output
  is requantised on the spot, one multiplication). Attention (an exchanged core too), norms and the rest stay as
  they are in the counted model.
* ``int4``: weights moved at 4 bits with a 16-bit scale per 128 inputs; they are widened on chip and the
  arithmetic is charged as int8, because the tables have no 4-bit figures.

The int8 and int4 columns keep activations in one byte on both sides, which our dynamic 8-bit layers do not:
the baselines get the better of the doubt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import nn

from ..operators.counts import OpCounts, dense_linear_counts
from ..specs import SPECS
from .counter import count_ops
from .report import CostReport, LinearShape, Row, add_counts, align, joules, merge_operations, quantity

BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
CONVERTED = frozenset(kind for kind, spec in SPECS.items() if spec.place == "linear")
INT4_GROUP = 128


@dataclass(frozen=True)
class Comparison:
    """The counted model and its dense twins.

    Attributes:
        columns: ``actual``, ``fp32``, ``fp16``, ``int8``, ``int4``.
    """

    columns: Mapping[str, CostReport]

    def table(self, table: str = "asic45") -> str:
        """Side by side: operations, bytes, energy with compute and memory apart."""
        header = ["", "multiply", "add", "shift", "lookup", "weights", "activations"]
        header += ["compute", "memory", "total"]
        lines = [[name, *_cells(report, table)] for name, report in self.columns.items()]
        note = f"energy: {table}, one forward pass; weights from DRAM once, activations through the buffer"
        return align([header, *lines]) + "\n" + note

    def to_dict(self, table: str = "asic45") -> dict[str, Any]:
        """Plain JSON: totals and energy of each column."""
        return {name: _summary(report, table) for name, report in self.columns.items()}


def compare(model: nn.Module | CostReport, *args: Any, **kwargs: Any) -> Comparison:
    """Cost a model beside itself as fp32, fp16, int8 and int4 dense.

    Args:
        model: A model, with its inputs behind it, or a report of :func:`count_ops`.
        *args: The model's inputs.
        **kwargs: The model's keyword inputs.

    Examples:
        >>> import torch
        >>> both = compare(nn.Linear(64, 64, bias=False), torch.zeros(1, 64))
        >>> [report.total.weight_bytes for report in both.columns.values()]
        [16384, 16384, 8192, 4352, 2176]
    """
    actual = model if isinstance(model, CostReport) else count_ops(model, *args, **kwargs)
    dense = _map(actual, as_dense)
    columns = {
        "actual": actual,
        "fp32": _map(dense, lambda row: at_width(row, "float32")),
        "fp16": _map(dense, lambda row: at_width(row, "float16")),
        "int8": _map(dense, lambda row: as_integer(row, 8)),
        "int4": _map(dense, lambda row: as_integer(row, 4)),
    }
    return Comparison(columns)


def as_dense(row: Row) -> Row:
    """A converted layer as the fp32 dense layer in whose place it stands; other rows unchanged."""
    if row.kind not in CONVERTED:
        return row
    weights = sum(s.out_features * (s.in_features + s.bias) for s in row.linears)
    moved = sum(s.rows * (s.in_features + s.out_features) for s in row.linears)
    return Row(
        row.module,
        "dense",
        {"float32": add_counts(_dense_counts(s) for s in row.linears)},
        {"float32": 4 * weights},
        {"float32": 4 * moved},
        row.linears,
    )


def at_width(row: Row, target: str) -> Row:
    """The same row with every floating-point operand at another width; integers stay."""
    operations: dict[str, OpCounts] = {}
    for operand, counts in row.operations.items():
        operations = merge_operations(operations, {target if operand in BYTES else operand: counts})
    weights, activations = (_resized(part, target) for part in (row.weights, row.activations))
    return replace(row, operations=operations, weights=weights, activations=activations)


def as_integer(row: Row, bits: int) -> Row:
    """A matrix product with stored weights at ``bits`` bits, charged as int8; other rows unchanged."""
    if not row.linears:
        return row
    counts = add_counts(_dense_counts(s) for s in row.linears)
    outputs = sum(s.rows * s.out_features for s in row.linears)
    operations = {
        "int8": OpCounts(multiply=counts.multiply),
        "int32": OpCounts(add=counts.add),
        "float32": OpCounts(multiply=outputs),
    }
    biases = sum(s.out_features * s.bias for s in row.linears)
    codes = max(_elements(row.weights) - biases, 0)
    stored = {f"int{bits}": -(-codes * bits // 8), "int32": 4 * biases, "scales": _scale_bytes(row, bits)}
    moved = {"int8": _elements(row.activations)}
    return replace(row, operations=operations, weights=stored, activations=moved)


def _scale_bytes(row: Row, bits: int) -> int:
    if bits == 8:
        return sum(4 * s.out_features for s in row.linears)
    return sum(2 * s.out_features * -(-s.in_features // INT4_GROUP) for s in row.linears)


def _dense_counts(shape: LinearShape) -> OpCounts:
    return dense_linear_counts(shape.rows, shape.out_features, shape.in_features, shape.bias)


def _elements(by_type: Mapping[str, int]) -> int:
    """Values held by so many bytes; integer types of a product are taken as bytes."""
    return sum(nbytes // BYTES.get(kind, 1) for kind, nbytes in by_type.items())


def _resized(by_type: Mapping[str, int], target: str) -> dict[str, int]:
    resized: dict[str, int] = {}
    for kind, nbytes in by_type.items():
        name = target if kind in BYTES else kind
        size = nbytes * BYTES[target] // BYTES[kind] if kind in BYTES else nbytes
        resized[name] = resized.get(name, 0) + size
    return resized


def _map(report: CostReport, change: Callable[[Row], Row]) -> CostReport:
    return CostReport(tuple(change(row) for row in report.rows), report.uncounted)


def _cells(report: CostReport, table: str) -> list[str]:
    total, energy = report.total, report.energy(table)
    operations = [quantity(value) for value in asdict(total.counts).values()]
    moved = [quantity(total.weight_bytes, "B"), quantity(total.activation_bytes, "B")]
    parts = (energy.compute_pj, energy.memory_pj, energy.total_pj)
    return [*operations, *moved, *map(joules, parts)]


def _summary(report: CostReport, table: str) -> dict[str, Any]:
    total = report.total
    return {
        "operations": asdict(total.counts),
        "weight_bytes": total.weight_bytes,
        "activation_bytes": total.activation_bytes,
        "energy": report.energy(table).to_dict(),
    }
