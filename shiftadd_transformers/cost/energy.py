"""What does an operation, or a moved byte, cost in picojoules? Tables are data; each figure has a source."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from importlib.resources import files
from typing import Any

from ..operators.counts import OpCounts
from ..specs import nearest

BITS_PER_WORD = 16
"""Memory figures are per word of this many bits, as the sources tabulate them."""


@dataclass(frozen=True)
class EnergyTable:
    """Unit costs of one technology.

    Attributes:
        name: Its name in ``energy.toml``.
        title: One line for reports.
        node: Process node.
        compute: Picojoules by (operation, operand type); operand ``"any"`` holds for every type.
        memory: Picojoules per 16-bit word by level.
        area: Square micrometres by (operation, operand type).
        alias: Operand types that are charged as another.
        sources: The source of each figure, by ``"compute.multiply.float32"`` and so on.
    """

    name: str
    title: str
    node: str
    compute: Mapping[tuple[str, str], float]
    memory: Mapping[str, float]
    area: Mapping[tuple[str, str], float]
    alias: Mapping[str, str]
    sources: Mapping[str, str]

    def operation_pj(self, operation: str, operand: str) -> float:
        """Energy of one operation.

        Raises:
            ValueError: The table has no figure for it.

        Examples:
            >>> load_table("asic45").operation_pj("multiply", "float32")
            3.7
        """
        operand = self.alias.get(operand, operand)
        for key in ((operation, operand), (operation, "any")):
            if key in self.compute:
                return self.compute[key]
        known = ", ".join(sorted(kind for name, kind in self.compute if name == operation))
        raise ValueError(f"table {self.name!r} has no figure for {operation} on {operand}; it has {known}")

    def compute_pj(self, operations: Mapping[str, OpCounts]) -> float:
        """Energy of all operations, given by operand type."""
        return sum(
            count * self.operation_pj(field.name, operand)
            for operand, counts in operations.items()
            for field in fields(counts)
            if (count := getattr(counts, field.name))
        )

    def memory_pj(self, level: str, nbytes: int) -> float:
        """Energy of moving ``nbytes`` at a level."""
        return self.memory[level] * nbytes * 8 / BITS_PER_WORD


@dataclass(frozen=True)
class Energy:
    """Energy of one forward pass, compute and memory kept apart.

    Attributes:
        table: Name of the table.
        compute_pj: Arithmetic.
        memory_pj: Weights once from DRAM, activations through the global buffer.
        by_kind: The same two figures for each kind of operator.
    """

    table: str
    compute_pj: float
    memory_pj: float
    by_kind: Mapping[str, tuple[float, float]]

    @property
    def total_pj(self) -> float:
        """Compute and memory together."""
        return self.compute_pj + self.memory_pj

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        kinds = {kind: {"compute_pj": c, "memory_pj": m} for kind, (c, m) in self.by_kind.items()}
        return {
            "table": self.table,
            "compute_pj": self.compute_pj,
            "memory_pj": self.memory_pj,
            "total_pj": self.total_pj,
            "by_kind": kinds,
        }


@cache
def _data() -> dict[str, Any]:
    path = files("shiftadd_transformers").joinpath("data", "energy.toml")
    return tomllib.loads(path.read_text(encoding="utf-8"))


def table_names() -> list[str]:
    """The tables that :func:`load_table` knows.

    Examples:
        >>> table_names()
        ['asic45', 'asic45-dram']
    """
    return [name for name in _data() if name != "sources"]


def load_table(name: str = "asic45") -> EnergyTable:
    """Read an energy table.

    Raises:
        ValueError: No such table; the message proposes names.
    """
    if name not in table_names():
        raise ValueError(f"no energy table {name!r}; {nearest(name, table_names())}")
    data = _data()[name]
    merged = {**_data()[data["base"]], **data} if "base" in data else data
    return EnergyTable(
        name=name,
        title=merged["title"],
        node=merged["node"],
        compute={(f["operation"], f["operand"]): f["value"] for f in merged["compute"]},
        memory={f["level"]: f["value"] for f in merged["memory"]},
        area={(f["operation"], f["operand"]): f["value"] for f in merged["area"]},
        alias=merged["alias"],
        sources=_sources(merged),
    )


def _sources(table: Mapping[str, Any]) -> dict[str, str]:
    known = _data()["sources"]
    named = {}
    for part in ("compute", "memory", "area"):
        for figure in table[part]:
            key = [part] + [figure[k] for k in ("operation", "operand", "level") if k in figure]
            named[".".join(key)] = f"{known[figure['source']]} ({figure['unit']})"
    return named
