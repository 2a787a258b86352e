"""Which decisions make a kernel fastest on a machine? Measured, and kept as records.

MetaSchedule's own loop does not fit these searches. The space of a rule has a few to a few dozen points, and
``replay-func`` draws from it with repetition, so it measures some twice and misses others; and it allocates operands
by the argument types of a function, which hold no number where rows are symbolic. So every point is visited once
here, and MetaSchedule's *runner* measures it: in a process of its own, which may crash or hang, here or on another
machine. Candidates are built in this process: the builder starts an interpreter per batch, which takes far longer
than to compile a kernel.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from torch import nn
from tvm.s_tir.meta_schedule import runner as runners

from . import host, measuring, records, remote
from .kernels import Kernel
from .schedules.rule import Rule, choose
from .targets import Target
from .tracing import Launch, launches

_MARGIN = 0.98
"""A candidate must be this much faster than what is recorded: less is noise, and each change compiles anew."""


class TuneError(RuntimeError):
    """Nothing could be measured; the message holds what the measuring process said."""


@dataclass(frozen=True)
class Outcome:
    """What tuning one kernel found.

    Args:
        kernel: the kernel.
        rule: the rule that serves it.
        decisions: the fastest.
        us: what they take, microseconds.
        before_us: what the decisions took that were in use before, measured in between.
        tried: number of candidates that ran.
        failures: what the others said.
    """

    kernel: Kernel
    rule: str
    decisions: Mapping[str, int]
    us: float
    before_us: float
    tried: int
    failures: tuple[str, ...]

    @property
    def row(self) -> records.Row:
        """As a record."""
        return {
            "kernel": self.kernel.name,
            "shape": asdict(self.kernel.shape),
            "rule": self.rule,
            "decisions": dict(self.decisions),
            "us": round(self.us, 2),
        }


def kernels_of(layers: Iterable[nn.Module], rows: Sequence[int], target: Target) -> dict[Kernel, Launch]:
    """The kernels with more than one candidate that packed layers run, each with operands.

    Args:
        layers: packed layers, see :func:`~.tracing.launches`.
        rows: numbers of input rows.
        target: the machine.
    """
    found: dict[Kernel, Launch] = {}
    for layer in layers:
        for m in rows:
            for launch in launches(layer, m, target):
                kernel = launch.kernel
                if kernel not in found and len(_rule(kernel).candidates(kernel.shape, target)) > 1:
                    found[kernel] = launch
    return found


def tune(found: Mapping[Kernel, Launch], bench: Bench, output: Path, trials: int | None = None) -> Iterator[Outcome]:
    """Measure the candidates of each kernel and record the fastest, one kernel after the other.

    Args:
        found: kernels with operands, see :func:`kernels_of`.
        bench: where to measure.
        output: the record file; it has each outcome before the outcome is yielded.
        trials: measure at most this many candidates of a kernel.

    Raises:
        TuneError: no candidate of a kernel ran.
    """
    for kernel, launch in found.items():
        known = _recorded_in(output, kernel)
        outcome = _tune_one(kernel, launch, bench, known or kernel.recorded(), trials)
        if not known or dict(outcome.decisions) != _completed(kernel, known):
            records.write(output, outcome.row)
        yield outcome


def _tune_one(
    kernel: Kernel, launch: Launch, bench: Bench, known: Mapping[str, Mapping[str, int]], trials: int | None
) -> Outcome:
    before = _completed(kernel, known)
    others = [point for point in _rule(kernel).candidates(kernel.shape, kernel.target) if point != before]
    candidates, failures, libraries = [before, *others][:trials], [], {}
    with tempfile.TemporaryDirectory(prefix="shiftadd-tune-") as scratch:
        for index, decisions in enumerate(candidates):
            library = Path(scratch) / f"{index}.so"
            try:
                host.link(kernel.build(decisions), library, kernel.target.triple)
                libraries[index] = library
            except (RuntimeError, ValueError, TypeError) as error:  # what TVM raises where a schedule does not apply
                failures.append(f"{decisions}: {error}")
        times = bench.microseconds(libraries, launch.arrays(), failures)
    if not times:
        raise TuneError(f"no candidate of {kernel.name} {kernel.shape} ran: {'; '.join(failures) or 'none was tried'}")
    best = min(times, key=lambda index: times[index])
    before_us = times.get(0, times[best])
    if 0 in times and times[best] > _MARGIN * before_us:
        best = 0
    rule = _rule(kernel).name
    return Outcome(kernel, rule, candidates[best], times[best], before_us, len(times), tuple(failures))


class Bench:
    """Measures candidates in turns, so that a slow moment of the machine meets all of them.

    Each measurement finds the operands but the first in memory and not in the caches, as in a model, whose layers push
    each other out.

    Args:
        threads: threads of a kernel.
        tracker: where the machine is; None for this one.
        rounds: turns.
        repeats: calls per candidate and turn.
    """

    def __init__(self, threads: int, tracker: remote.Tracker | None = None, rounds: int = 4, repeats: int = 8) -> None:
        self._scratch = tempfile.TemporaryDirectory(prefix="shiftadd-bench-")
        self._operands = Path(self._scratch.name) / "operands.npz"
        self._rounds = rounds
        config = runners.EvaluatorConfig(number=1, repeat=repeats, min_repeat_ms=0, enable_cpu_cache_flush=True)
        if tracker is None:
            self._runner = runners.LocalRunner(
                timeout_sec=60,
                evaluator_config=config,
                f_alloc_argument=partial(measuring.operands_here, str(self._operands)),
                initializer=partial(measuring.use_threads_here, threads),
            )
        else:
            tracker.check()
            self._runner = runners.RPCRunner(
                rpc_config=runners.RPCConfig(tracker.host, tracker.port, tracker.key, session_timeout_sec=60),
                evaluator_config=config,
                f_create_session=partial(measuring.open_session, threads),
                f_alloc_argument=partial(measuring.operands_there, str(self._operands)),
            )

    def microseconds(
        self, libraries: Mapping[int, Path], operands: Sequence[np.ndarray], failures: list[str]
    ) -> dict[int, float]:
        """The time of each library; those that fail are missing, and say why in ``failures``.

        It is the lower quartile: other work on the machine only adds to what a kernel takes.
        """
        np.savez(self._operands, *operands)
        samples: dict[int, list[float]] = {index: [] for index in libraries}
        for _ in range(self._rounds):
            for index in list(samples):
                request = runners.RunnerInput(str(libraries[index]), "cpu", [])
                result = self._runner.run([request])[0].result()
                if result.run_secs is None:
                    failures.append(str(result.error_msg).strip())
                    del samples[index]
                else:
                    samples[index] += [1e6 * float(seconds) for seconds in result.run_secs]
        return {index: float(np.quantile(times, 0.25)) for index, times in samples.items()}

    def close(self) -> None:
        """End the measuring process."""
        self._runner.pool.shutdown()
        self._scratch.cleanup()


def bench(threads: int, tracker: remote.Tracker | None = None, **settings: int) -> closing[Bench]:
    """A :class:`Bench` that is closed behind a ``with`` block."""
    return closing(Bench(threads, tracker, **settings))


def _rule(kernel: Kernel) -> Rule:
    return choose(kernel.rules(), kernel.shape, kernel.target)


def _completed(kernel: Kernel, known: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    """The decisions that are in use: recorded ones, and defaults for the rest."""
    rule = _rule(kernel)
    default = rule.candidates(kernel.shape, kernel.target)[0]
    return {**default, **rule.admitted(known.get(rule.name, {}), kernel.shape, kernel.target)}


def _recorded_in(path: Path, kernel: Kernel) -> dict[str, dict[str, int]]:
    same = (row for row in records.read(path) if records.concerns(row, kernel.name, kernel.shape))
    return {row["rule"]: row["decisions"] for row in same}
