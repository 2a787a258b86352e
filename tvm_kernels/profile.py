"""How long does each operator take on a machine, by shape and number of rows or tokens?

The answer is a latency table, which :class:`shiftadd_transformers.cost.latency.LatencyTable` reads where neither TVM
nor the machine is at hand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

from shiftadd_transformers.cost import AttentionShape
from shiftadd_transformers.cost.latency import FORMAT
from shiftadd_transformers.specs import Spec

from .bridge import MissingKernelError
from .samples import SPECS
from .schedules.rule import NoRuleError
from .series import CoreSeries, LayerSeries, Series
from .timers import Machine, Timer


@dataclass(frozen=True)
class Sweep:
    """What to measure.

    Args:
        groups: series whose members take turns; a table is complete group by group.
        repeats: measurements of each size.
    """

    groups: tuple[tuple[Series, ...], ...]
    repeats: int = 15

    @classmethod
    def over(
        cls,
        shapes: Iterable[tuple[int, int]] = (),
        rows: Sequence[int] = (1, 16, 128),
        specs: Sequence[Spec] = SPECS,
        repeats: int = 15,
        attentions: Iterable[Sequence[AttentionShape]] = (),
    ) -> Sweep:
        """All operators at all sizes.

        Args:
            shapes: input and output features ``(K, N)`` of layers.
            rows: numbers of input rows of layers.
            specs: ways of computing, of layers and of attentions.
            repeats: measurements of each size.
            attentions: groups of calls of attentions.
        """
        layers = [spec for spec in specs if spec.place != "attention"]
        cores = [spec for spec in specs if spec.place == "attention"]
        groups: list[tuple[Series, ...]] = [
            tuple(LayerSeries(spec, k, n, tuple(rows)) for spec in layers) for k, n in shapes
        ]
        groups += [tuple(CoreSeries(spec, tuple(calls)) for spec in cores) for calls in attentions if calls]
        return cls(tuple(group for group in groups if group), repeats)

    @property
    def size(self) -> int:
        """Number of measurements."""
        return self.repeats * sum(len(series) for group in self.groups for series in group)


def profile(
    sweep: Sweep, where: Machine, report: Callable[[int], None] = lambda _count: None
) -> Iterator[dict[str, Any]]:
    """Measure group by group, and yield the table as far as it has come after each.

    Args:
        sweep: what to measure.
        where: on which machine.
        report: is told the number of measurements that are done or have turned out impossible.
    """
    table: dict[str, Any] = {"format": FORMAT, "machine": where.description(), "rows": [], "missing": []}
    for group in sweep.groups:
        timers: list[tuple[dict[str, Any], Timer]] = []
        for series in group:
            try:
                timers += [(_names(series.spec) | size, timer) for size, timer in series.timers(where)]
            except (MissingKernelError, NoRuleError, ValueError) as error:
                table["missing"].append({**_names(series.spec), **series.place(), "reason": str(error)})
                report(len(series) * sweep.repeats)
        for (row, _), samples in zip(timers, _interleaved(timers, sweep.repeats, report), strict=True):
            table["rows"].append({**row, "threads": where.threads, **_summary(samples)})
        yield table


def _interleaved(
    timers: Sequence[tuple[dict[str, Any], Timer]], repeats: int, report: Callable[[int], None]
) -> list[list[float]]:
    """In turns, so that a slow moment of the machine meets all of them."""
    samples: list[list[float]] = [[] for _ in timers]
    for _ in range(repeats):
        for (_, timer), found in zip(timers, samples, strict=True):
            found.append(timer())
            report(1)
    return samples


def _names(spec: Spec) -> dict[str, Any]:
    return {"operator": spec.kind, "spec": spec.to_dict()}


def _summary(samples: list[float]) -> dict[str, float]:
    low, _, high = quantiles(samples, n=4, method="inclusive") if len(samples) > 1 else samples * 3
    return {"us": round(median(samples), 2), "us_low": round(low, 2), "us_high": round(high, 2)}
