"""How long does a layer take on a machine? What was measured there, read from a table.

``shiftadd profile kernels`` writes the table; reading it needs neither kernels nor the machine:

    {"format": 1, "machine": {"cpu": ..., "target": ..., "threads": ..., ...},
     "rows": [{"operator": "shift", "spec": {"kind": "shift", "activation_bits": 8}, "m": 1, "k": 768, "n": 3072,
               "threads": 1, "us": 41.2, "us_low": 40.1, "us_high": 43.0}, ...],
     "missing": [{"operator": "bcq", "spec": {...}, "reason": "no kernel serves ..."}, ...]}
"""

from __future__ import annotations

import json
import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..specs import AdderSpec, ShiftAddSpec, ShiftSpec, Spec, as_spec

FORMAT = 1


class LatencyTable:
    """Measured times by spec, shape and number of rows.

    Args:
        rows: as in the file.
        machine: what was measured; as in the file.
        missing: specs that could not be measured, and why; as in the file.

    >>> row = {"spec": {"kind": "dense"}, "k": 64, "n": 64}
    >>> table = LatencyTable([{**row, "m": 1, "us": 2.0}, {**row, "m": 16, "us": 8.0}])
    >>> table.us("dense", 4, 64, 64)
    4.0
    """

    def __init__(
        self,
        rows: Sequence[Mapping[str, Any]],
        machine: Mapping[str, Any] | None = None,
        missing: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self.machine = dict(machine or {})
        self._missing = {_name(row["spec"]): str(row["reason"]) for row in missing}
        self._curves: dict[str, dict[tuple[int, int], dict[int, float]]] = {}
        for row in rows:
            shapes = self._curves.setdefault(_name(row["spec"]), {})
            shapes.setdefault((row["k"], row["n"]), {})[row["m"]] = float(row["us"])

    @classmethod
    def load(cls, path: str | Path) -> LatencyTable:
        """Read a file.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it holds no latency table, or one of another format.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
            if data["format"] != FORMAT:
                raise ValueError(f"its format is {data['format']!r}, not {FORMAT}")
            return cls(data["rows"], data["machine"], data.get("missing", ()))
        except (ValueError, KeyError, TypeError) as error:
            again = "write it anew with `shiftadd profile kernels`"
            raise ValueError(f"{path} is no latency table ({error!r}); {again}") from error

    def us(self, spec: Spec | str | Mapping[str, Any], m: int, k: int, n: int) -> float:
        """Microseconds of one layer, log-linear between the numbers of rows that were measured.

        Args:
            spec: how the layer computes; what only training knows of it does not matter.
            m: rows, within those measured.
            k: input features, as measured.
            n: output features, as measured.

        Raises:
            KeyError: nothing was measured for this; the message names what was.
        """
        name = _name(spec)
        if name not in self._curves:
            reason = f" ({self._missing[name]})" if name in self._missing else ""
            raise KeyError(f"{name} was not measured{reason}; measured: {', '.join(sorted(self._curves)) or 'nothing'}")
        shapes = self._curves[name]
        if (k, n) not in shapes:
            raise KeyError(f"{name} was not measured at k={k}, n={n}; nearest (k, n): {_nearest(shapes, k, n)}")
        curve = shapes[k, n]
        if not min(curve) <= m <= max(curve):
            raise KeyError(f"{name} at k={k}, n={n} was measured for {min(curve)} to {max(curve)} rows, not for {m}")
        return _interpolated(curve, m)


def _interpolated(curve: Mapping[int, float], m: int) -> float:
    """A power law between the two neighbours."""
    if m in curve:
        return curve[m]
    rows = sorted(curve)
    above = bisect_left(rows, m)
    low, high = rows[above - 1], rows[above]
    part = math.log(m / low) / math.log(high / low)
    return curve[low] * (curve[high] / curve[low]) ** part


def _nearest(shapes: Mapping[tuple[int, int], Any], k: int, n: int, count: int = 3) -> str:
    def distance(shape: tuple[int, int]) -> float:
        return abs(math.log(shape[0] / k)) + abs(math.log(shape[1] / n))

    return ", ".join(map(str, sorted(shapes, key=distance)[:count]))


def _name(spec: Spec | str | Mapping[str, Any]) -> str:
    """Specs whose packed layers compute alike have one name."""
    known = as_spec(spec if isinstance(spec, Spec | str) else dict(spec))
    if isinstance(known, ShiftSpec):
        known = replace(known, parametrization="q", zero=None if known.format.zero else False)
    if isinstance(known, AdderSpec | ShiftAddSpec):
        known = replace(known, eta=type(known).eta)
    return str(known)
