"""`shiftadd profile kernels`: how long do operators take, as a table that the search reads?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tasks.errors import TaskError
from tasks.kernels.machines import explained, machine_of
from tasks.kernels.models import model_shapes
from tasks.kernels.options import (
    COMMON_HEADS,
    COMMON_SHAPES,
    Key,
    Model,
    Rpc,
    TargetName,
    Threads,
    heads_of,
    lengths_of,
    numbers_of,
    shapes_of,
    specs_of,
)
from tasks.kernels.tables import row_text, written

if TYPE_CHECKING:
    from shiftadd_transformers.cost import AttentionShape
    from tvm_kernels.profile import Sweep
    from tvm_kernels.targets import Target


def profile_kernels(
    output: Annotated[Path | None, typer.Option(help="The latency table to write.")] = None,
    model: Model = None,
    shapes: Annotated[str | None, typer.Option(help="In and out features, e.g. 768x768,768x3072.")] = None,
    rows: Annotated[str, typer.Option(help="Numbers of rows.")] = "1,16,128",
    heads: Annotated[
        str | None, typer.Option(help="Heads and widths of attentions, e.g. 12x64,8x64:causal,8x64:cross.")
    ] = None,
    tokens: Annotated[str, typer.Option(help="Tokens of attentions; 1x64 is one that looks at 64.")] = "16,64,196",
    batch: Annotated[str, typer.Option(help="Sequences that attentions see at a time.")] = "1",
    operator: Annotated[
        list[str] | None,
        typer.Option(help="shift, adder, softmax, binary_linear, ... or a spec as JSON; by default one per kernel."),
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Measurements of each, in turns.")] = 15,
    warm: Annotated[bool, typer.Option(help="Weights stay in the caches; by default they come from memory.")] = False,
    threads: Threads = 1,
    target: TargetName = "host",
    rpc: Rpc = None,
    key: Key = None,
    explain: Annotated[
        bool, typer.Option(help="Measure nothing; show which rule serves each kernel, and why.")
    ] = False,
) -> None:
    """Measure the operators for the shapes of a model, as a table that the search reads."""
    if model is not None and (shapes is not None or heads is not None):
        raise TaskError("give either --model or --shapes and --heads, not both")
    with explained():
        from tvm_kernels.profile import Sweep
        from tvm_kernels.timers import AnotherMachine, ThisMachine

        sizes, attentions = _sizes(model, shapes, heads)
        calls = _calls(attentions, lengths_of(tokens), numbers_of(batch, "--batch"))
        sweep = Sweep.over(sizes, numbers_of(rows, "--rows"), specs_of(operator), repeats, calls)
        machine, tracker = machine_of(target, rpc, key, only_compile=explain)
        if explain:
            for line in _explanations(sweep, machine):
                print(line)
            return
        if output is None:
            raise TaskError("say where to write the table: --output FILE, or ask with --explain")
        where = AnotherMachine(tracker, machine, threads, not warm) if tracker else ThisMachine(threads, not warm)
        table = written(sweep, where, output)
    for row in [*table["rows"], *table["missing"]]:
        print(row_text(row))
    print(f"table: {output}")


def _sizes(
    model: Path | None, shapes: str | None, heads: str | None
) -> tuple[list[tuple[int, int]], list[AttentionShape]]:
    """Of a model, or as given; common ones where nothing is."""
    if model is not None:
        return model_shapes(model)
    if shapes is None and heads is None:
        return list(COMMON_SHAPES), heads_of(COMMON_HEADS)
    return shapes_of(shapes) if shapes else [], heads_of(heads) if heads else []


def _calls(
    attentions: list[AttentionShape], lengths: list[tuple[int, int]], batches: list[int]
) -> list[list[AttentionShape]]:
    """Per attention, all numbers of tokens; a causal one sees as many targets as sources, or a single target."""
    return [
        [
            replace(attention, batch=batch, targets=t, sources=s, causal=attention.causal and t > 1)
            for t, s in lengths
            if t == s or t == 1 or not attention.causal
        ]
        for attention in attentions
        for batch in batches
    ]


def _explanations(sweep: Sweep, machine: Target) -> Iterator[str]:
    from shiftadd_transformers.specs import DenseSpec
    from tvm_kernels.bridge import MissingKernelError
    from tvm_kernels.explain import explain
    from tvm_kernels.samples import sample_layer
    from tvm_kernels.schedules.rule import NoRuleError
    from tvm_kernels.series import LayerSeries

    for series in (series for group in sweep.groups for series in group):
        if not isinstance(series, LayerSeries) or isinstance(series.spec, DenseSpec):
            continue
        layer = sample_layer(series.spec, series.k, series.n)
        for m in series.rows:
            yield f"{m} x {series.k} x {series.n} {series.spec} on {machine.name}"
            try:
                found = explain(layer, m, machine)
            except (MissingKernelError, NoRuleError) as error:
                yield f"  {error}"
                break
            for kernel in found:
                source = "recorded" if kernel.recorded else "default"
                values = ", ".join(f"{name}={value}" for name, value in kernel.decisions.items())
                yield f"  {kernel.kernel.name}: {kernel.rule}" + (f" ({values}; {source})" if values else "")
                yield from (f"    not {rule}: {reason}" for rule, reason in kernel.refusals.items())
