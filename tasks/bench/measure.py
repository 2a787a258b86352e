"""What does one contest give? A kernel is first held against its operator's PyTorch body, and only then timed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor

import tvm_kernels
from tvm_kernels.bridge import KERNELS, MissingKernelError
from tvm_kernels.bridge.machine import machine
from tvm_kernels.kernels import Kernel
from tvm_kernels.layouts.read import ReadShape

from .baselines import Baseline
from .cases import Arguments, Contest, Subject
from .shape import Shape
from .timing import Call, copies, interleaved

Times = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Row:
    """One kernel at one shape with one number of threads.

    Args:
        name: the kernel and its kind of weight.
        kernel: the operator.
        shape: the shape.
        threads: number of threads.
        weights: ``dram`` or ``cache``.
        us: median microseconds of the operator as a user calls it.
        bridge_us: of the kernel alone, without PyTorch's dispatcher.
        baselines: median microseconds of each.
        ratios: how many times the kernel's time each baseline takes: the median of the rounds' ratios.
        missing: why other baselines were not timed.
        read_bandwidth_fraction: the time of a plain read of the packed weight, as a part of the kernel's.
    """

    name: str
    kernel: str
    shape: Shape
    threads: int
    weights: str
    us: float
    bridge_us: float
    baselines: dict[str, float]
    ratios: dict[str, float]
    missing: dict[str, str]
    read_bandwidth_fraction: float

    def as_json(self) -> dict[str, Any]:
        """For a file; numbers with the digits that mean something."""
        fields = {name: _rounded(value) for name, value in vars(self).items()}
        return {**fields, "shape": self.shape.as_json()}


@dataclass
class Result:
    """What a contest gave with one number of threads.

    Args:
        rows: the kernels that were timed.
        red: what the check of others found, by name: these have no figures.
        unserved: why no kernel serves others, by name.
    """

    rows: list[Row] = field(default_factory=list)
    red: dict[str, str] = field(default_factory=dict)
    unserved: dict[str, str] = field(default_factory=dict)


def measure(contest: Contest, threads: int, rounds: int) -> Result:
    """Check and time one contest."""
    result, checked = Result(), {}
    with _threads(threads), torch.no_grad():
        for subject in contest.subjects:
            arguments = subject.arguments(contest.shape)
            try:
                problem = check(subject, arguments)
            except MissingKernelError as error:
                result.unserved[subject.name] = str(error)
                continue
            if problem:
                result.red[subject.name] = problem
            else:
                checked[subject] = arguments
        if checked:
            result.rows = _timed(contest, checked, threads, rounds)
    return result


def check(subject: Subject, arguments: Arguments) -> str | None:
    """Compare a kernel with the PyTorch body of its operator; switches kernels off.

    Returns:
        what is wrong, or None.

    Raises:
        MissingKernelError: there is no kernel for these arguments.
    """
    if f"shiftadd::{subject.kernel}" not in KERNELS:
        raise MissingKernelError(f"no kernel serves shiftadd::{subject.kernel}")
    tvm_kernels.disable()
    expected = subject.operator(*arguments)
    with tvm_kernels.enabled():
        result = subject.operator(*arguments)
    return difference(result, expected, subject.tolerance)


def difference(result: Tensor, expected: Tensor, tolerance: float) -> str | None:
    """Say how a result differs from what it may be; None where it does not.

    >>> difference(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.5]), 0)
    '1 of 2 results differ, by up to 0.5, where every bit must agree'
    """
    if result.shape != expected.shape or result.dtype != expected.dtype:
        return f"{result.dtype} {tuple(result.shape)} instead of {expected.dtype} {tuple(expected.shape)}"
    if torch.equal(result, expected):
        return None
    error = (result.double() - expected.double()).abs()
    worst = float(error.max())
    if tolerance == 0:
        differing = f"{int((error != 0).sum())} of {error.numel()} results"
        return f"{differing} differ, by up to {worst:g}, where every bit must agree"
    allowed = tolerance * float(expected.abs().max())
    return None if worst <= allowed else f"results differ by up to {worst:g}, where {allowed:g} is allowed"


def _timed(contest: Contest, checked: Mapping[Subject, Arguments], threads: int, rounds: int) -> list[Row]:
    count = len(contest.baselines) + 2 * len(checked)
    contenders, missing = _baseline_calls(contest, count, threads)
    for subject, arguments in checked.items():
        contenders |= _subject_calls(contest, subject, arguments, count)
    with tvm_kernels.enabled():
        times = interleaved(contenders, rounds)
    return [_row(contest, subject, threads, times, missing) for subject in checked]


def _subject_calls(contest: Contest, subject: Subject, arguments: Arguments, count: int) -> dict[str, list[Call]]:
    """The operator as a user calls it, its kernel alone, and a plain read of as many bytes."""
    weight = arguments[subject.weight]
    number = copies(weight.nbytes, count) if contest.weights == "dram" else 1
    copied = [_with_own_weight(arguments, subject.weight) for _ in range(number)]
    kernel = KERNELS[f"shiftadd::{subject.kernel}"]
    return {
        subject.name: [partial(subject.operator, *each) for each in copied],
        # Half a rotation away from the operator, which reads the same copies.
        _bridge(subject): [partial(kernel, *each) for each in copied[number // 2 :] + copied[: number // 2]],
        _read(subject): read_calls(weight.nbytes, number),
    }


def _with_own_weight(arguments: Arguments, position: int) -> Arguments:
    return (*arguments[:position], arguments[position].clone(), *arguments[position + 1 :])


def read_calls(nbytes: int, number: int) -> list[Call]:
    """Plain reads of ``nbytes`` of memory, each of memory of its own."""
    shape = ReadShape.of(nbytes, machine().lanes)
    kernel = Kernel("read_words", shape, machine()).function()
    sums = torch.empty(shape.sums, dtype=torch.int32)
    return [partial(kernel, torch.ones(shape.words, dtype=torch.int32), sums) for _ in range(number)]


def _baseline_calls(contest: Contest, count: int, threads: int) -> tuple[dict[str, list[Call]], dict[str, str]]:
    """Calls of each baseline, and why others have none."""
    found, missing = {}, {}
    shape = contest.shape
    for baseline in contest.baselines:
        nbytes = shape.batch * shape.k * shape.n * baseline.bits / 8
        number = copies(nbytes, count) if contest.weights == "dram" else 1
        try:
            found[baseline.name] = _tried(baseline, shape, number, threads)
        except ImportError as error:
            missing[baseline.name] = f"not installed: {error}"
        except Exception as error:  # these packages raise what they like; none of it concerns the kernels
            missing[baseline.name] = f"{type(error).__name__}: {error}".splitlines()[0]
    return found, missing


def _tried(baseline: Baseline, shape: Shape, number: int, threads: int) -> list[Call]:
    calls = baseline.calls(shape, number, threads)
    calls[0]()
    return calls


def _row(contest: Contest, subject: Subject, threads: int, times: Times, missing: Mapping[str, str]) -> Row:
    own = times[subject.name]
    compared = {baseline.name: times[baseline.name] for baseline in contest.baselines if baseline.name in times}
    return Row(
        name=subject.name,
        kernel=subject.kernel,
        shape=contest.shape,
        threads=threads,
        weights=contest.weights,
        us=1e6 * median(own),
        bridge_us=1e6 * median(times[_bridge(subject)]),
        baselines={name: 1e6 * median(seconds) for name, seconds in compared.items()},
        ratios={name: _ratio(seconds, own) for name, seconds in compared.items()},
        missing=dict(missing),
        read_bandwidth_fraction=_ratio(times[_read(subject)], own),
    )


def _ratio(times: Sequence[float], others: Sequence[float]) -> float:
    return median(a / b for a, b in zip(times, others, strict=True))


def _bridge(subject: Subject) -> str:
    return f"{subject.name}, kernel alone"


def _read(subject: Subject) -> str:
    return f"{subject.name}, plain read"


def _rounded(value: object) -> object:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    return {name: _rounded(each) for name, each in value.items()} if isinstance(value, dict) else value


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
