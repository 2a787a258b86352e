"""How long do whole models of some plans take on this machine, and what does it say of a table's sums?"""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from statistics import median
from typing import Any

import torch
from scipy.optimize import nnls
from torch import nn

from shiftadd_transformers.cost.latency import LatencyTable, machine_differences
from shiftadd_transformers.hf import convert_, pack_
from shiftadd_transformers.plan import Plan

from .calibration import Calibration, Timed, model_key, table_us
from .costs import Costs
from .space import Space
from .trust import agreement
from .work import Inputs

CALLS = 3
"""Timed calls of a model per turn, after one that is not."""


def calibrate(
    costs: Costs,
    table: LatencyTable,
    model: nn.Module,
    inputs: Inputs,
    plans: Mapping[str, Plan],
    *,
    machine: Mapping[str, Any] | None = None,
    repeats: int = 9,
    running: Callable[[], AbstractContextManager[Any]] = nullcontext,
    clock: Callable[[], float] = time.perf_counter,
    report: Callable[[], None] = lambda: None,
) -> Calibration:
    """Run packed models of some plans, in turns, and fit a table's sums to what they take.

    Args:
        costs: Of the space that the plans are from.
        table: Measured on this machine.
        model: Dense; not changed.
        inputs: Keyword inputs of the forward, those that `costs` were counted with.
        plans: By name; see `calibration_plans`.
        machine: This machine, as the table describes it; None leaves the comparison out.
        repeats: Turns; the median of them counts.
        running: What a forward runs in: `tvm_kernels.enabled` for compiled kernels.
        clock: Seconds.
        report: Is called after each model of each turn.

    Returns:
        The calibration, with each plan's sum and time.

    Raises:
        ValueError: The table is of another machine, or lacks something; plans are too few or too much alike.
    """
    if machine and table.machine and (other := machine_differences(table.machine, machine)):
        raise ValueError(
            f"the latency table was not measured on this machine ({other}): run both `shiftadd profile` commands there"
        )
    summed = costs.priced(lambda work: table_us(work, table))
    sums = {name: summed(plan) for name, plan in plans.items()}
    models = {name: pack_(convert_(copy.deepcopy(model), plan)).eval() for name, plan in plans.items()}
    with running(), torch.no_grad():
        times = _interleaved(models, inputs, repeats, clock, report)
    timed = [Timed(name, sums[name], 1e6 * median(times[name])) for name in plans]
    return fit(timed, model_key(costs), machine or table.machine or None)


def calibration_plans(space: Space, count: int = 8, seed: int = 0) -> dict[str, Plan]:
    """The uniform plans of a space, the dense one among them, and random ones up to a number, by name."""
    rng, named = random.Random(seed), space.reference_points()
    candidates = dict.fromkeys(named.values())
    while len(candidates) < min(count, space.count()):
        candidates.setdefault(space.sample(rng))
    names = {candidate: name for name, candidate in reversed(named.items())}
    return {
        names.get(candidate, f"random {number}"): space.to_plan(candidate)
        for number, candidate in enumerate(candidates, 1 - len(names))
    }


def fit(timed: Sequence[Timed], model: str = "", machine: Mapping[str, Any] | None = None) -> Calibration:
    """The overhead and the factor, neither negative, with the least squares of relative errors.

    Args:
        timed: Plans that were run, with at least two different sums.
        model: See `Calibration`.
        machine: See `Calibration`.

    Raises:
        ValueError: There are not two different sums.

    >>> found = fit([Timed("dense", 100.0, 260.0), Timed("shift", 50.0, 160.0)])
    >>> round(found.overhead_us), round(found.factor, 2), found.tau
    (60, 2.0, 1.0)
    """
    if len({t.table_us for t in timed}) < 2:
        raise ValueError(
            "an overhead and a factor need plans of at least two different sums; offer more choices, or run more plans"
        )
    (overhead, factor), _ = nnls([[1 / t.us, t.table_us / t.us] for t in timed], [1.0] * len(timed))
    predicted = [overhead + factor * t.table_us for t in timed]
    tau = agreement(predicted, [t.us for t in timed]).tau
    return Calibration(float(overhead), float(factor), tuple(timed), tau, model, machine)


def _interleaved(
    models: Mapping[str, nn.Module],
    inputs: Inputs,
    repeats: int,
    clock: Callable[[], float],
    report: Callable[[], None],
) -> dict[str, list[float]]:
    """Seconds of a call in each turn; models take turns, so that a slow moment of the machine meets all of them."""
    for model in models.values():
        model(**inputs)  # may compile
    times: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(repeats):
        for name, model in models.items():
            model(**inputs)  # finds in the caches what the model before left there
            times[name].append(median(_seconds(model, inputs, clock) for _ in range(CALLS)))
            report()
    return times


def _seconds(model: nn.Module, inputs: Inputs, clock: Callable[[], float]) -> float:
    start = clock()
    model(**inputs)
    return clock() - start
