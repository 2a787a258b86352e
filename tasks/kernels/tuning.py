"""`shiftadd tune`: which schedule of each kernel is the fastest?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tasks.errors import Interrupted, TaskError, nearest
from tasks.kernels.machines import explained, machine_of, progress
from tasks.kernels.models import packed_layers
from tasks.kernels.options import COMMON_SHAPES, Key, Model, Rpc, TargetName, Threads, kernel_shape_of, numbers_of

if TYPE_CHECKING:
    from torch import nn

    from shiftadd_transformers.specs import Spec
    from tvm_kernels.targets import Target


def tune(
    model: Model = None,
    shape: Annotated[
        list[str] | None, typer.Option(metavar="KERNEL:M,K,N", help="A kernel, its rows, in and out features.")
    ] = None,
    rows: Annotated[str, typer.Option(help="Numbers of rows, without --shape.")] = "1,8,128",
    target: TargetName = "host",
    trials: Annotated[int | None, typer.Option(min=2, help="Measure at most so many candidates per kernel.")] = None,
    threads: Threads = 1,
    output: Annotated[Path | None, typer.Option(help="The record file; by default one of the user's own.")] = None,
    rpc: Rpc = None,
    key: Key = None,
) -> None:
    """Find the fastest schedule of each kernel by measuring; Ctrl-C keeps what is done."""
    if model is not None and shape:
        raise TaskError("give either --model or --shape, not both")
    with explained():
        from tvm_kernels import records
        from tvm_kernels.tune import bench, kernels_of
        from tvm_kernels.tune import tune as run_tuning

        machine, tracker = machine_of(target, rpc, key)
        found: dict[Any, Any] = {}
        for layers, counts, only in _tuned_layers(model, shape, numbers_of(rows, "--rows"), machine):
            new = kernels_of(layers, counts, machine)
            found |= {kernel: launch for kernel, launch in new.items() if only in (None, kernel.name)}
        if not found:
            print("nothing to tune: every kernel can be scheduled in one way only")
            return
        path = output or records.user_folder() / f"{machine.name}.json"
        done = 0
        try:
            with bench(threads, tracker) as place, progress() as shown:
                bar = shown.add_task("tuning", total=len(found))
                for outcome in run_tuning(found, place, path, trials):
                    done += 1
                    shown.console.print(_outcome_line(outcome), soft_wrap=True, markup=False, highlight=False)
                    shown.advance(bar)
        except KeyboardInterrupt:
            raise Interrupted(f"stopped; {done} of {len(found)} kernels are recorded in {path}") from None
    print(f"records: {path}")


def _tuned_layers(
    model: Path | None, shapes: list[str] | None, rows: list[int], machine: Target
) -> Iterator[tuple[Iterable[nn.Module], list[int], str | None]]:
    """Layers, numbers of rows, and the one kernel that is meant; None for all."""
    from shiftadd_transformers.specs import ShiftSpec
    from tvm_kernels.samples import sample_layer

    if model is not None:
        yield packed_layers(model), rows, None
    elif shapes:
        for text in shapes:
            name, m, k, n = kernel_shape_of(text)
            specs = _specs_with(name, machine)
            yield [sample_layer(spec, k, n, bias) for spec in specs for bias in (True, False)], [m], name
    else:
        for k, n in COMMON_SHAPES:
            yield (
                [sample_layer(ShiftSpec(activation_bits=8), k, n, bias) for bias in (True, False)],
                rows,
                "shift_linear",
            )


def _specs_with(name: str, machine: Target) -> list[Spec]:
    """Ways of computing that run a kernel, seen on a small layer."""
    from tvm_kernels.bridge import MissingKernelError
    from tvm_kernels.kernels import MODULES
    from tvm_kernels.samples import SPECS, sample_layer
    from tvm_kernels.tracing import launches

    if name not in MODULES:
        raise TaskError(f"there is no kernel {name!r}{nearest(name, MODULES)}")
    found = []
    for spec in SPECS[1:]:
        try:
            if any(launch.kernel.name == name for launch in launches(sample_layer(spec, 64, 64), 1, machine)):
                found.append(spec)
        except MissingKernelError:
            continue
    if not found:
        raise TaskError(f"no operator runs the kernel {name!r} by itself; tune a model that does: --model FOLDER")
    return found


def _outcome_line(outcome: Any) -> str:
    shape, values = outcome.kernel.shape, ", ".join(f"{name}={value}" for name, value in outcome.decisions.items())
    gain = outcome.before_us / outcome.us
    failed = f", {len(outcome.failures)} failed" if outcome.failures else ""
    return (
        f"{outcome.kernel.name} {shape}: {outcome.rule} {values}, {outcome.us:.1f} us, "
        f"{gain:.2f} times as fast as before ({outcome.tried} tried{failed})"
    )
