"""How is one call timed, on this machine or on another one?"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from shiftadd_transformers.specs import DenseSpec, Spec

from .bridge import MissingKernelError, enabled
from .bridge.machine import machine
from .remote import RemoteMachine, Tracker
from .samples import sample_layer
from .targets import Target
from .tracing import launches

Timer = Callable[[], float]
"""Runs something once and gives the microseconds that it took."""

_NEARER_CACHES = 512 << 10
"""Bytes, about what a core has for itself."""


class Machine(Protocol):
    """Where layers and cores are measured."""

    threads: int

    def description(self) -> dict[str, Any]:
        """What the table says of it."""
        ...

    def layer_timer(self, spec: Spec, layer: nn.Module, rows: int) -> Timer:
        """Times a layer; raises MissingKernelError or NoRuleError where it cannot run."""
        ...

    def core_timer(self, call: Callable[[], Tensor]) -> Timer:
        """Times one call of an attention's core; raises MissingKernelError where it cannot run."""
        ...


class ThisMachine:
    """The machine of this process: PyTorch's operators with kernels behind them, as a model calls them.

    Args:
        threads: threads of an operator. With one, processor time is measured: on an idle machine it is the time that
            passes, and on a busy one other processes spoil it less.
        cold: weights come from memory, as in a model that is larger than the caches; else from the last cache, as the
            layers between two calls have pushed them out of the nearer ones.

    Attributes:
        clock: gives the seconds that are measured.
    """

    def __init__(self, threads: int, cold: bool = True) -> None:
        self.threads, self._cold = threads, cold
        self.clock = time.thread_time if threads == 1 else time.perf_counter
        torch.set_num_threads(threads)

    def description(self) -> dict[str, Any]:
        """See :class:`Machine`."""
        time_of = "processor" if self.clock is time.thread_time else "wall clock"
        return {"cpu": _cpu(), **_conditions(machine(), self.threads, self._cold), "time": time_of}

    def layer_timer(self, spec: Spec, layer: nn.Module, rows: int) -> Timer:
        """See :class:`Machine`."""
        if not isinstance(spec, DenseSpec):  # asks without computing: PyTorch's own operators may take seconds
            launches(sample_layer(spec, layer.in_features, layer.out_features), rows, machine())
        x, small, few = torch.randn(rows, layer.in_features), torch.randn(rows, 64), sample_layer(spec, 64, 64)

        def prepare() -> None:
            if self._cold:
                _evict()
                few(small)  # only weights are to be cold, not the way to the kernel
            else:
                _pass_by()

        return self._timer(prepare, lambda: layer(x))

    def core_timer(self, call: Callable[[], Tensor]) -> Timer:
        """See :class:`Machine`. Queries, keys and values are in the caches, as projections have left them there."""
        return self._timer(_pass_by, call)

    def _timer(self, prepare: Callable[[], Any], call: Callable[[], Any]) -> Timer:
        """Times a call with kernels on; runs once now, which may compile."""

        def measure() -> float:
            with enabled(), torch.no_grad():
                prepare()
                start = self.clock()
                call()
                return 1e6 * (self.clock() - start)

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

    def layer_timer(self, spec: Spec, layer: nn.Module, rows: int) -> Timer:
        """See :class:`Machine`."""
        if isinstance(spec, DenseSpec):
            raise MissingKernelError("ordinary layers are PyTorch's, which does not run over RPC")
        timers = [self._remote.timer(launch, self._cold) for launch in launches(layer, rows, self._target)]
        return lambda: sum(timer() for timer in timers)

    def core_timer(self, call: Callable[[], Tensor]) -> Timer:
        """See :class:`Machine`."""
        raise MissingKernelError("PyTorch stands around the kernels of a core, and does not run over RPC")

    def close(self) -> None:
        """Let others have the machine."""
        self._remote.close()


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


def _pass_by() -> None:
    """Do in the nearer caches what other layers of a model would."""
    _neighbours().add_(1)


@cache
def _neighbours() -> Tensor:
    return torch.zeros(_NEARER_CACHES, dtype=torch.uint8)


@cache
def _filler() -> Tensor:
    return torch.zeros(2 * largest_cache(), dtype=torch.uint8)


def largest_cache() -> int:
    """Bytes of the last cache; a guess where the system does not say."""
    files = Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    units = {"K": 1 << 10, "M": 1 << 20}
    sizes = [int(text[:-1]) * units.get(text[-1], 1) for text in (file.read_text().strip() for file in files)]
    return max(sizes, default=32 << 20)
