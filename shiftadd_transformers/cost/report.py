"""What did the count find? Rows per module and kind, their totals, a table and plain JSON."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ..operators.counts import OpCounts
from .energy import Energy, load_table


@dataclass(frozen=True)
class LinearShape:
    """A matrix product with stored weights: ``rows x in_features`` times ``in_features x out_features``."""

    rows: int
    out_features: int
    in_features: int
    bias: bool


@dataclass(frozen=True)
class AttentionShape:
    """One call of an attention: ``heads`` of ``targets x head_dim`` queries and ``sources x head_dim`` keys and values.

    Attributes:
        causal: A target sees nothing behind itself. What a mask alone hides is computed all the same.
        cross: Targets and sources are tokens of different sequences, where the operator minds.
    """

    batch: int
    heads: int
    head_dim: int
    targets: int
    sources: int
    causal: bool = False
    cross: bool = False


@dataclass(frozen=True)
class Row:
    """One kind of work in one module.

    Attributes:
        module: Name of the innermost module that ran it; the model itself is ``(model)``.
        kind: ``dense``, ``shift``, ``adder``, ``shift_add``, ``bcq``, ``matmul``, ``attention``, ...
        operations: Counts by operand type (``float32``, ``int8``, ...).
        weights: Bytes of parameters and buffers read, by stored type, each tensor once per forward.
        activations: Bytes of activations read and written, by type.
        linears: The matrix products with stored weights that it did, or that it stands for.
        attentions: The calls of attentions that it did.
    """

    module: str
    kind: str
    operations: Mapping[str, OpCounts] = field(default_factory=dict)
    weights: Mapping[str, int] = field(default_factory=dict)
    activations: Mapping[str, int] = field(default_factory=dict)
    linears: tuple[LinearShape, ...] = ()
    attentions: tuple[AttentionShape, ...] = ()

    @property
    def counts(self) -> OpCounts:
        """Operations of all operand types together."""
        return add_counts(self.operations.values())

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights read."""
        return sum(self.weights.values())

    @property
    def activation_bytes(self) -> int:
        """Bytes of activations read and written."""
        return sum(self.activations.values())

    def __add__(self, other: Row) -> Row:
        """The same module and kind, both works together."""
        return Row(
            self.module,
            self.kind,
            merge_operations(self.operations, other.operations),
            merge_bytes(self.weights, other.weights),
            merge_bytes(self.activations, other.activations),
            join_linears(self.linears + other.linears),
            self.attentions + other.attentions,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "module": self.module,
            "kind": self.kind,
            "operations": {operand: asdict(counts) for operand, counts in self.operations.items()},
            "weight_bytes": self.weight_bytes,
            "activation_bytes": self.activation_bytes,
        }


@dataclass(frozen=True)
class CostReport:
    """Cost of one forward pass.

    Attributes:
        rows: One per module and kind, in order of execution.
        uncounted: Operators that ran and have no formula, with how often: their bytes are in the rows of kind
            ``uncounted``, their operations are missing.
    """

    rows: tuple[Row, ...]
    uncounted: Mapping[str, int] = field(default_factory=dict)

    @property
    def total(self) -> Row:
        """All rows together."""
        return sum_rows("total", "all", self.rows)

    def by_kind(self) -> dict[str, Row]:
        """All modules together, one row per kind, the largest first."""
        groups: dict[str, list[Row]] = defaultdict(list)
        for row in self.rows:
            groups[row.kind].append(row)
        summed = [sum_rows("", kind, rows) for kind, rows in groups.items()]
        return {row.kind: row for row in sorted(summed, key=lambda row: -row.counts.total)}

    def energy(self, table: str = "asic45") -> Energy:
        """Price the counts.

        Weights come from DRAM once per forward, activations go through the global buffer. Traffic inside the
        array (network, registers) depends on a dataflow and is not charged.

        Raises:
            ValueError: Unknown table, or no figure for an operand type (float64 has none).
        """
        prices = load_table(table)
        parts: dict[str, tuple[float, float]] = {}
        for kind, row in self.by_kind().items():
            moved = prices.memory_pj("dram", row.weight_bytes)
            moved += prices.memory_pj("global_buffer", row.activation_bytes)
            parts[kind] = (prices.compute_pj(row.operations), moved)
        compute, memory = (sum(part[i] for part in parts.values()) for i in (0, 1))
        return Energy(table, compute, memory, parts)

    def table(self, by: str = "module") -> str:
        """Aligned text.

        Args:
            by: ``"module"`` (every row) or ``"kind"`` (one line per kind).
        """
        if by not in ("module", "kind"):
            raise ValueError(f"by must be 'module' or 'kind', not {by!r}")
        rows: Iterable[Row] = self.rows if by == "module" else self.by_kind().values()
        header = ["module", "kind", "multiply", "add", "shift", "lookup", "weights", "activations"]
        lines = [_cells(row) for row in [*rows, self.total]]
        start = 0 if by == "module" else 1
        text = align([line[start:] for line in [header, *lines]])
        if self.uncounted:
            names = ", ".join(f"{name} ({times}x)" for name, times in self.uncounted.items())
            text += f"\nno formula for: {names}"
        return text

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON: totals, kinds, rows and what could not be counted."""
        total = self.total
        return {
            "operations": asdict(total.counts),
            "operations_by_operand": total.to_dict()["operations"],
            "weight_bytes": total.weight_bytes,
            "activation_bytes": total.activation_bytes,
            "by_kind": {kind: _without(row.to_dict(), "module") for kind, row in self.by_kind().items()},
            "rows": [row.to_dict() for row in self.rows],
            "uncounted": dict(self.uncounted),
        }


def add_counts(counts: Iterable[OpCounts]) -> OpCounts:
    """Their sum."""
    return sum(counts, OpCounts())


def sum_rows(module: str, kind: str, rows: Iterable[Row]) -> Row:
    """One row with the work of all; which products and attentions they were is not kept."""
    total = Row(module, kind)
    for row in rows:
        total = replace(total + replace(row, linears=(), attentions=()), module=module, kind=kind)
    return total


def merge_operations(a: Mapping[str, OpCounts], b: Mapping[str, OpCounts]) -> dict[str, OpCounts]:
    """Add counts operand by operand."""
    return {k: a.get(k, OpCounts()) + b.get(k, OpCounts()) for k in [*a, *(k for k in b if k not in a)]}


def merge_bytes(a: Mapping[str, int], b: Mapping[str, int]) -> dict[str, int]:
    """Add bytes type by type."""
    return {k: a.get(k, 0) + b.get(k, 0) for k in [*a, *(k for k in b if k not in a)]}


def join_linears(shapes: Iterable[LinearShape]) -> tuple[LinearShape, ...]:
    """Products with equal weights' shapes become one with more rows."""
    rows: dict[tuple[int, int, bool], int] = defaultdict(int)
    for shape in shapes:
        rows[shape.out_features, shape.in_features, shape.bias] += shape.rows
    return tuple(LinearShape(m, n, k, bias) for (n, k, bias), m in rows.items())


def quantity(value: float, unit: str = "") -> str:
    """A number with three digits and an SI prefix.

    Examples:
        >>> quantity(123456), quantity(0), quantity(2_500_000, "B")
        ('123 k', '0', '2.5 MB')
    """
    if not value:
        return f"0 {unit}".strip()
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}".strip()


def joules(picojoules: float) -> str:
    """Energy with three digits in the unit that suits it.

    Examples:
        >>> joules(1234.0), joules(5.6e9)
        ('1.23 nJ', '5.6 mJ')
    """
    for factor, unit in ((1e12, "J"), (1e9, "mJ"), (1e6, "uJ"), (1e3, "nJ")):
        if picojoules >= factor:
            return f"{picojoules / factor:.3g} {unit}"
    return f"{picojoules:.3g} pJ"


def align(lines: Sequence[Sequence[str]]) -> str:
    """Columns of equal width, the first one left, numbers right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = [
        [cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))]
        for line in lines
    ]
    return "\n".join("  ".join(line).rstrip() for line in padded)


def _cells(row: Row) -> list[str]:
    operations = [quantity(value) for value in asdict(row.counts).values()]
    moved = [quantity(row.weight_bytes, "B"), quantity(row.activation_bytes, "B")]
    return [row.module, row.kind, *operations, *moved]


def _without(data: dict[str, Any], key: str) -> dict[str, Any]:
    return {k: v for k, v in data.items() if k != key}
