"""`shiftadd profile search`: what does a search have to know of this machine to predict a whole forward?

All that the plans of a space compute is measured one by one, as far as the latency table lacks it; then a handful of
whole models is run, which says how sums of the table relate to a forward.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tasks.dispatch import find_config, module_of, read_task_config
from tasks.errors import TaskError
from tasks.kernels.machines import explained, progress
from tasks.kernels.options import Threads
from tasks.kernels.tables import written
from tasks.options import Override, Set

if TYPE_CHECKING:
    from search import Work
    from shiftadd_transformers.cost.latency import LatencyTable
    from tasks.search.subject import Subject
    from tvm_kernels.profile import Sweep
    from tvm_kernels.timers import ThisMachine


def profile_search(
    config: Annotated[Path, typer.Argument(help="A TOML file with [search], or the name of a config that is shipped.")],
    overrides: Override = None,
    set_: Set = None,
    table: Annotated[
        Path | None, typer.Option(help="The latency table to write or continue; search.latency_table by default.")
    ] = None,
    plans: Annotated[int, typer.Option(min=2, help="Whole models to run: all uniform ones, and random ones.")] = 8,
    repeats: Annotated[int, typer.Option(min=1, help="Measurements of each, in turns.")] = 15,
    threads: Threads = 1,
) -> None:
    """Measure all that the plans of a search compute, and some whole models: predicts microseconds of a forward."""
    resolved = read_task_config(find_config(config), [*(overrides or ()), *(set_ or ())])
    if resolved.search is None:
        raise TaskError('the config has no [search] table; add one, e.g. [search] with preset = "vit"')
    output = table or (Path(resolved.search.latency_table) if resolved.search.latency_table else None)
    if output is None:
        raise TaskError("say where the latency table is to be: --table FILE, or search.latency_table in the config")
    with explained(), TemporaryDirectory() as folder:
        subject = module_of(resolved, "subject").make_subject(resolved, Path(folder))
        measure(resolved.search, subject, output, plans=plans, repeats=repeats, threads=threads)


def measure(settings: Any, subject: Subject, output: Path, *, plans: int, repeats: int, threads: int) -> None:
    """Complete a latency table for a search, calibrate it, and write both.

    Args:
        settings: `[search]`.
        subject: the task.
        output: the latency table.
        plans: whole models to run.
        repeats: measurements of each.
        threads: of PyTorch and kernels.

    Raises:
        TaskError: the space does not fit the model.
        ValueError: the table is of another machine; a choice has no kernel.
    """
    import tvm_kernels
    from search import measure_costs
    from search.calibration import calibration_file
    from search.costs import CostTable
    from search.timing import calibrate, calibration_plans
    from shiftadd_transformers.cost.latency import LatencyTable
    from tasks.config import write_text
    from tasks.search.space import make_space

    space = make_space(settings, subject.model)
    costs = measure_costs(space, subject.model, subject.inputs)
    chosen = calibration_plans(space, plans)
    works = list(costs.works.values()) if isinstance(costs, CostTable) else list(map(costs.work, chosen.values()))
    before, where = _begun(output, subject, threads)
    sweep = lacking(works, LatencyTable(before["rows"]), repeats)
    if sweep.groups:
        written(sweep, where, output, before)
    with progress() as shown:
        bar = shown.add_task("running whole models", total=len(chosen) * repeats)
        calibration = calibrate(
            costs,
            LatencyTable.load(output),
            subject.model,
            subject.inputs,
            chosen,
            machine=where.description(),
            repeats=repeats,
            running=tvm_kernels.enabled,
            clock=where.clock,
            report=lambda: shown.advance(bar),
        )
    write_text(calibration_file(output), calibration.to_json() + "\n")
    print(f"{calibration.summary()}\ntable: {output}\ncalibration: {calibration_file(output)}")


def lacking(works: Iterable[Work], table: LatencyTable, repeats: int) -> Sweep:
    """What a latency table lacks to price some works.

    Args:
        works: what plans compute.
        table: what was measured.
        repeats: measurements of each size.
    """
    from tvm_kernels.profile import Sweep
    from tvm_kernels.series import CoreSeries, LayerSeries, Series

    rows: dict[tuple[int, int], dict[Any, set[int]]] = defaultdict(lambda: defaultdict(set))
    calls: dict[tuple[int, int, int], dict[Any, dict[Any, None]]] = defaultdict(lambda: defaultdict(dict))
    for work in works:
        for spec, m in work.linears:
            try:
                table.us(spec, m.rows, m.in_features, m.out_features)
            except KeyError:
                rows[m.in_features, m.out_features][spec].add(m.rows)
        for spec, shape in work.attentions:
            try:
                table.attention_us(spec, shape)
            except KeyError:
                calls[shape.batch, shape.heads, shape.head_dim][spec][shape] = None
    groups: list[tuple[Series, ...]] = [
        tuple(LayerSeries(spec, k, n, tuple(sorted(found))) for spec, found in specs.items())
        for (k, n), specs in rows.items()
    ]
    groups += [tuple(CoreSeries(spec, tuple(found)) for spec, found in specs.items()) for specs in calls.values()]
    return Sweep(tuple(groups), repeats)


def _begun(output: Path, subject: Subject, threads: int) -> tuple[dict[str, Any], ThisMachine]:
    """The table so far, and this machine under the table's conditions.

    Without a table, weights come from memory if the dense model's exceed the caches.
    """
    from shiftadd_transformers.cost.latency import LatencyTable, machine_differences
    from tvm_kernels.timers import ThisMachine, largest_cache

    if not output.is_file():
        held = sum(t.numel() * t.element_size() for t in subject.model.parameters())
        return {"rows": [], "missing": []}, ThisMachine(threads, cold=held > largest_cache())
    there = LatencyTable.load(output).machine
    where = ThisMachine(threads, cold=there.get("weights") != "in cache")
    if other := machine_differences(there, where.description()):
        raise TaskError(f"{output} was not measured on this machine ({other}); name another --table, or --threads")
    return json.loads(output.read_text(encoding="utf-8")), where
