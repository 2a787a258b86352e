"""What does one forward pass cost: operations, bytes and energy, module by module?

:func:`count_ops` runs a model once and counts; :meth:`CostReport.energy` prices the counts with a table of
``data/energy.toml``; :func:`compare` puts the same model as fp32, fp16, int8 and int4 dense beside it.
"""

from __future__ import annotations

from .compare import Comparison, compare
from .counter import count_ops
from .energy import Energy, EnergyTable, load_table, table_names
from .report import AttentionShape, CostReport, LinearShape, Row

__all__ = [
    "AttentionShape",
    "Comparison",
    "CostReport",
    "Energy",
    "EnergyTable",
    "LinearShape",
    "Row",
    "compare",
    "count_ops",
    "load_table",
    "table_names",
]
