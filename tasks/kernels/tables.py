"""How does a latency table come into its file, and how does it look to people?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.errors import Interrupted
from tasks.kernels.machines import progress

if TYPE_CHECKING:
    from tvm_kernels.profile import Sweep
    from tvm_kernels.timers import Machine


def written(sweep: Sweep, where: Machine, output: Path, before: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Measure, and write the table as it grows.

    Args:
        sweep: what to measure.
        where: on which machine.
        output: the file.
        before: a table of this machine that is to be continued.

    Returns:
        The whole table.

    Raises:
        Interrupted: Ctrl-C; the file holds what was done.
    """
    from tasks.config import write_text
    from tvm_kernels.profile import profile

    rows, missing = ((before or {}).get(part, []) for part in ("rows", "missing"))
    table: dict[str, Any] = {"rows": rows, "missing": missing}
    try:
        with progress() as shown:
            bar = shown.add_task("measuring", total=sweep.size)
            for new in profile(sweep, where, lambda count: shown.advance(bar, count)):
                table = {**new, "rows": [*rows, *new["rows"]], "missing": [*missing, *new["missing"]]}
                write_text(output, json.dumps(table, indent=1) + "\n")
    except KeyboardInterrupt:
        raise Interrupted(
            f"stopped; {output} holds the {len(table['rows'])} rows of the shapes that were done"
        ) from None
    return table


def row_text(row: Mapping[str, Any]) -> str:
    """One row of a table for people."""
    from shiftadd_transformers.specs import spec_from_dict

    spec = str(spec_from_dict(row["spec"]))
    found = f"{row['us']:10.1f} us" if "us" in row else f"missing: {row['reason']}"
    return f"{_size_text(row):28} {spec:46} {found}"


def _size_text(row: Mapping[str, Any]) -> str:
    """Layers as rows x inputs x outputs, attentions as sequences x heads x width: targets x sources."""
    if "heads" not in row:
        return " x ".join(str(row[name]) for name in ("m", "k", "n") if name in row)
    flags = "".join(f" {flag}" for flag in ("causal", "cross") if row.get(flag))
    tokens = f": {row['targets']} x {row['sources']}" if "targets" in row else ""
    return f"{row['batch']} x {row['heads']} x {row['head_dim']}{tokens}{flags}"
