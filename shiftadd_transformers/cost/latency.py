"""How long do a layer and an attention's core take on a machine? What was measured there, read from a table.

``shiftadd profile kernels`` writes the table; reading it needs neither kernels nor the machine:

    {"format": 1, "machine": {"cpu": ..., "target": ..., "threads": ..., ...},
     "rows": [{"operator": "shift", "spec": {"kind": "shift", "activation_bits": 8}, "m": 1, "k": 768, "n": 3072,
               "threads": 1, "us": 41.2, "us_low": 40.1, "us_high": 43.0},
              {"operator": "softmax", "spec": {"kind": "softmax"}, "batch": 1, "heads": 12, "head_dim": 64,
               "targets": 196, "sources": 196, "threads": 1, "us": 812.0, ...}, ...],
     "missing": [{"operator": "bcq", "spec": {...}, "reason": "no kernel serves ..."}, ...]}

Rows of cores may also say ``"causal": true`` or ``"cross": true``, see :class:`AttentionShape`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..specs import (
    AdderAttentionSpec,
    AdderSpec,
    BinaryLinearSpec,
    MixerSpec,
    MixtureSpec,
    ShiftAddSpec,
    ShiftSpec,
    SoftmaxSpec,
    Spec,
    as_spec,
)
from .interpolation import between, between_pairs
from .report import AttentionShape

FORMAT = 1

_UNTIMED: dict[type[Spec], tuple[str, ...]] = {
    AdderSpec: ("eta",),
    ShiftAddSpec: ("eta",),
    MixtureSpec: ("dense_latency", "shift_latency", "balance", "noise"),
    BinaryLinearSpec: ("momentum",),
    AdderAttentionSpec: ("momentum",),
    MixerSpec: ("eta",),
}
"""Fields that only training knows."""

_SAME = ("cpu", "target", "threads")
"""What two descriptions of one machine agree in."""

_Heads = tuple[int, int, int, bool, bool]
"""Batch, heads, head width, causal, cross."""


class LatencyTable:
    """Measured times by spec, shape and number of rows or tokens.

    Args:
        rows: as in the file.
        machine: what was measured; as in the file.
        missing: specs that could not be measured, and why; as in the file.

    >>> row = {"spec": {"kind": "dense"}, "k": 64, "n": 64}
    >>> core = {"spec": {"kind": "softmax"}, "heads": 4, "head_dim": 16, "targets": 9, "sources": 9, "us": 30.0}
    >>> table = LatencyTable([{**row, "m": 1, "us": 2.0}, {**row, "m": 16, "us": 8.0}, core])
    >>> table.us("dense", 4, 64, 64), table.attention_us("softmax", AttentionShape(1, 4, 16, 9, 9))
    (4.0, 30.0)
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
        self._cores: dict[str, dict[_Heads, dict[tuple[int, int], float]]] = {}
        for row in rows:
            name = _name(row["spec"])
            if "heads" in row:
                lengths = self._cores.setdefault(name, {}).setdefault(_heads_of_row(row), {})
                lengths[row["targets"], row["sources"]] = float(row["us"])
            else:
                shapes = self._curves.setdefault(name, {})
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
        shapes = self._measured(self._curves, name)
        if (k, n) not in shapes:
            raise KeyError(f"{name} was not measured at k={k}, n={n}; nearest (k, n): {_nearest(shapes, (k, n))}")
        curve = shapes[k, n]
        found = between(curve, m)
        if found is None:
            raise KeyError(f"{name} at k={k}, n={n} was measured for {min(curve)} to {max(curve)} rows, not for {m}")
        return found

    def attention_us(self, spec: Spec | str | Mapping[str, Any], shape: AttentionShape) -> float:
        """Microseconds of one call of an attention without its projections, log-linear between numbers of tokens.

        Args:
            spec: how it computes; what only training knows of it does not matter.
            shape: tokens within those measured, everything else as measured.

        Raises:
            KeyError: nothing was measured for this; the message names what was.
        """
        name, heads = _name(spec), _heads(shape, spec)
        shapes = self._measured(self._cores, name)
        if heads not in shapes:
            known = "; ".join(dict.fromkeys(map(_heads_text, shapes)))
            raise KeyError(f"{name} was not measured for {_heads_text(heads)}; measured: {known}")
        found = between_pairs(shapes[heads], shape.targets, shape.sources)
        if found is None:
            known = ", ".join(f"{t}x{s}" for t, s in sorted(shapes[heads]))
            wanted = f"{shape.targets}x{shape.sources}"
            raise KeyError(
                f"{name} with {_heads_text(heads)} was measured for {known} targets x sources, not around {wanted}"
            )
        return found

    def _measured(self, found: Mapping[str, Any], name: str) -> Any:
        if name not in found:
            reason = f" ({self._missing[name]})" if name in self._missing else ""
            raise KeyError(f"{name} was not measured{reason}; measured: {', '.join(sorted(found)) or 'nothing'}")
        return found[name]


def machine_differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """In what two descriptions of machines differ, in words; empty where measured times may be mixed.

    Versions of packages, and whether weights came from memory, are of one machine all the same.

    >>> machine_differences({"cpu": "A", "threads": 1}, {"cpu": "B", "threads": 1})
    'cpu: A and B'
    """
    keys = [key for key in _SAME if one.get(key) != other.get(key)]
    return "; ".join(f"{key}: {one.get(key)} and {other.get(key)}" for key in keys)


def _nearest(shapes: Mapping[tuple[int, int], Any], wanted: tuple[int, int], count: int = 3) -> str:
    def distance(shape: tuple[int, int]) -> float:
        return sum(abs(math.log(size / other)) for size, other in zip(shape, wanted, strict=True))

    return ", ".join(map(str, sorted(shapes, key=distance)[:count]))


def _heads_of_row(row: Mapping[str, Any]) -> _Heads:
    shape = AttentionShape(
        row.get("batch", 1),
        row["heads"],
        row["head_dim"],
        row["targets"],
        row["sources"],
        row.get("causal", False),
        row.get("cross", False),
    )
    return _heads(shape, row["spec"])


def _heads(shape: AttentionShape, spec: Spec | str | Mapping[str, Any]) -> _Heads:
    """Ordinary attention does not mind where its sources come from."""
    cross = shape.cross and not isinstance(_spec(spec), SoftmaxSpec)
    return shape.batch, shape.heads, shape.head_dim, shape.causal, cross


def _heads_text(heads: _Heads) -> str:
    batch, count, width, causal, cross = heads
    flags = [word for word, there in (("causal", causal), ("cross", cross)) if there]
    return ", ".join([f"batch {batch}, {count} heads x {width}", *flags])


def _spec(spec: Spec | str | Mapping[str, Any]) -> Spec:
    return as_spec(spec if isinstance(spec, Spec | str) else dict(spec))


def _name(spec: Spec | str | Mapping[str, Any]) -> str:
    """Specs whose packed layers compute alike have one name."""
    known = _spec(spec)
    if isinstance(known, ShiftSpec):
        known = replace(known, parametrization="q", zero=None if known.format.zero else False)
    untimed = _UNTIMED.get(type(known), ())
    return str(replace(known, **{field: getattr(type(known), field) for field in untimed}))
