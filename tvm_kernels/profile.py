"""How long does each operator take on a machine, by shape and number of rows?

The answer is a latency table, which :class:`shiftadd_transformers.cost.latency.LatencyTable` reads where neither TVM
nor the machine is at hand.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Protocol

import torch
from torch import nn

from shiftadd_transformers.cost.latency import FORMAT
from shiftadd_transformers.specs import DenseSpec, Spec

from .bridge import MissingKernelError, enabled
from .bridge.machine import machine
from .remote import RemoteMachine, Tracker
from .samples import SPECS, sample_layer
from .schedules.rule import NoRuleError
from .targets import Target
from .tracing import launches

Timer = Callable[[], float]
"""Runs something once and gives the microseconds that it took."""


@dataclass(frozen=True)
class Sweep:
    """What to measure.

    Args:
        shapes: input and output features ``(K, N)``.
        rows: numbers of input rows.
        specs: ways of computing.
        repeats: measurements of each.
    """

    shapes: Sequence[tuple[int, int]]
    rows: Sequence[int] = (1, 16, 128)
    specs: Sequence[Spec] = SPECS
    repeats: int = 15

    @property
    def size(self) -> int:
        """Number of measurements."""
        return len(self.shapes) * len(self.rows) * len(self.specs) * self.repeats


class Machine(Protocol):
    """Where layers are measured."""

    threads: int

    def description(self) -> dict[str, Any]:
        """What the table says of it."""
        ...

    def timer(self, spec: Spec, layer: nn.Module, rows: int) -> Timer:
        """Times a layer; raises MissingKernelError or NoRuleError where it cannot run."""
        ...


def profile(
    sweep: Sweep, where: Machine, report: Callable[[int], None] = lambda _count: None
) -> Iterator[dict[str, Any]]:
    """Measure shape by shape, and yield the table as far as it has come after each.

    Args:
        sweep: what to measure.
        where: on which machine.
        report: is told the number of measurements that are done or have turned out impossible.
    """
    table: dict[str, Any] = {"format": FORMAT, "machine": where.description(), "rows": [], "missing": []}
    for k, n in sweep.shapes:
        timers: dict[tuple[Spec, int], Timer] = {}
        for spec in sweep.specs:
            try:
                layer = sample_layer(spec, k, n)
                timers |= {(spec, m): where.timer(spec, layer, m) for m in sweep.rows}
            except (MissingKernelError, NoRuleError, ValueError) as error:
                table["missing"].append({**_names(spec), "k": k, "n": n, "reason": str(error)})
                report(len(sweep.rows) * sweep.repeats)
        for (spec, m), samples in _interleaved(timers, sweep.repeats, report).items():
            table["rows"].append(
                {**_names(spec), "m": m, "k": k, "n": n, "threads": where.threads, **_summary(samples)}
            )
        yield table


class ThisMachine:
    """The machine of this process: PyTorch's operators with kernels behind them, as a model calls them.

    Args:
        threads: threads of an operator.
        cold: weights come from memory, as in a model that is larger than the caches.
    """

    def __init__(self, threads: int, cold: bool = True) -> None:
        self.threads, self._cold = threads, cold
        torch.set_num_threads(threads)

    def description(self) -> dict[str, Any]:
        """See :class:`Machine`."""
        return {"cpu": _cpu(), **_conditions(machine(), self.threads, self._cold)}

    def timer(self, spec: Spec, layer: nn.Module, rows: int) -> Timer:
        """See :class:`Machine`."""
        if not isinstance(spec, DenseSpec):  # asks without computing: PyTorch's own operators may take seconds
            launches(sample_layer(spec, layer.in_features, layer.out_features), rows, machine())
        x, small, few = torch.randn(rows, layer.in_features), torch.randn(rows, 64), sample_layer(spec, 64, 64)

        def measure() -> float:
            with enabled(), torch.no_grad():
                if self._cold:
                    _evict()
                    few(small)  # only weights are to be cold, not the way to the kernel
                else:
                    layer(x)
                start = time.perf_counter()
                layer(x)
                return 1e6 * (time.perf_counter() - start)

        measure()
        return measure


class AnotherMachine:
    """A machine at the other end of TVM's RPC, without PyTorch: the kernels of an operator, one after the other.

    Args:
        tracker: where it is registered.
        target: what it is.
        threads: threads of a kernel.
        cold: weights come from memory.
    """

    def __init__(self, tracker: Tracker, target: Target, threads: int, cold: bool = True) -> None:
        self.threads, self._tracker, self._target, self._cold = threads, tracker, target, cold
        self._remote = RemoteMachine(tracker, threads)

    def description(self) -> dict[str, Any]:
        """See :class:`Machine`."""
        where = f"{self._tracker.key} at {self._tracker.host}:{self._tracker.port}"
        return {"cpu": where, **_conditions(self._target, self.threads, self._cold)}

    def timer(self, spec: Spec, layer: nn.Module, rows: int) -> Timer:
        """See :class:`Machine`."""
        if isinstance(spec, DenseSpec):
            raise MissingKernelError("ordinary layers are PyTorch's, which does not run over RPC")
        timers = [self._remote.timer(launch, self._cold) for launch in launches(layer, rows, self._target)]
        return lambda: sum(timer() for timer in timers)

    def close(self) -> None:
        """Let others have the machine."""
        self._remote.close()


def _interleaved(
    timers: dict[tuple[Spec, int], Timer], repeats: int, report: Callable[[int], None]
) -> dict[tuple[Spec, int], list[float]]:
    """In turns, so that a slow moment of the machine meets all of them."""
    samples: dict[tuple[Spec, int], list[float]] = {key: [] for key in timers}
    for _ in range(repeats):
        for key, timer in timers.items():
            samples[key].append(timer())
            report(1)
    return samples


def _names(spec: Spec) -> dict[str, Any]:
    return {"operator": spec.kind, "spec": spec.to_dict()}


def _summary(samples: list[float]) -> dict[str, float]:
    low, _, high = quantiles(samples, n=4, method="inclusive") if len(samples) > 1 else samples * 3
    return {"us": round(median(samples), 2), "us_low": round(low, 2), "us_high": round(high, 2)}


def _conditions(target: Target, threads: int, cold: bool) -> dict[str, Any]:
    packages = ("shiftadd-transformers", "torch", "apache-tvm")
    return {
        "target": target.name,
        "threads": threads,
        "weights": "from memory" if cold else "in cache",
        "versions": {package: version(package) for package in packages},
    }


def _cpu() -> str:
    """The processor's name as Linux reports it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model")))
    return next(named, platform.processor() or platform.machine())


def _evict() -> None:
    """Push everything else out of the caches."""
    _filler().add_(1)


@cache
def _filler() -> torch.Tensor:
    return torch.zeros(2 * _largest_cache(), dtype=torch.uint8)


def _largest_cache() -> int:
    """Bytes of the last cache; a guess where the system does not say."""
    files = Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    units = {"K": 1 << 10, "M": 1 << 20}
    sizes = [int(text[:-1]) * units.get(text[-1], 1) for text in (file.read_text().strip() for file in files)]
    return max(sizes, default=32 << 20)
