"""`shiftadd tune` and `shiftadd profile kernels`: measured kernels, here or on another machine."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tasks.errors import Interrupted, TaskError, nearest

if TYPE_CHECKING:
    from rich.progress import Progress
    from torch import nn

    from shiftadd_transformers.specs import Spec
    from tvm_kernels.remote import Tracker
    from tvm_kernels.targets import Target

COMMON_SHAPES = ((768, 768), (768, 3072), (3072, 768), (1024, 1024), (1024, 4096), (4096, 1024), (4096, 4096))
"""Input and output features of projections and feed-forward layers."""

TargetName = Annotated[str, typer.Option("--target", help="The machine; host is this one.")]
Threads = Annotated[int, typer.Option(min=1, help="Threads of a kernel.")]
Rpc = Annotated[str | None, typer.Option(metavar="HOST:PORT", help="A TVM RPC tracker: measure on a machine there.")]
Key = Annotated[str | None, typer.Option(help="What that machine is registered under.")]
Model = Annotated[Path | None, typer.Option(help="A folder with a saved model, in the place of shapes.")]

profile = typer.Typer(help="Measure how long things take.", no_args_is_help=True, rich_markup_mode=None)


@profile.callback()
def _group() -> None:
    """Keeps `kernels` a command of its own while it is the only one."""


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

        machine, tracker = _machine(target, rpc, key)
        found: dict[Any, Any] = {}
        for layers, counts, only in _tuned_layers(model, shape, _numbers(rows, "--rows"), machine):
            new = kernels_of(layers, counts, machine)
            found |= {kernel: launch for kernel, launch in new.items() if only in (None, kernel.name)}
        if not found:
            print("nothing to tune: every kernel can be scheduled in one way only")
            return
        path = output or records.user_folder() / f"{machine.name}.json"
        done = 0
        try:
            with bench(threads, tracker) as place, _progress() as progress:
                bar = progress.add_task("tuning", total=len(found))
                for outcome in run_tuning(found, place, path, trials):
                    done += 1
                    progress.console.print(_outcome_line(outcome), soft_wrap=True, markup=False, highlight=False)
                    progress.advance(bar)
        except KeyboardInterrupt:
            raise Interrupted(f"stopped; {done} of {len(found)} kernels are recorded in {path}") from None
    print(f"records: {path}")


@profile.command("kernels")
def profile_kernels(
    output: Annotated[Path | None, typer.Option(help="The latency table to write.")] = None,
    model: Model = None,
    shapes: Annotated[str | None, typer.Option(help="In and out features, e.g. 768x768,768x3072.")] = None,
    rows: Annotated[str, typer.Option(help="Numbers of rows.")] = "1,16,128",
    operator: Annotated[
        list[str] | None, typer.Option(help="shift, adder, bcq, ... or a spec as JSON; by default one per kernel.")
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
    if model is not None and shapes is not None:
        raise TaskError("give either --model or --shapes, not both")
    with explained():
        from tvm_kernels.profile import AnotherMachine, Sweep, ThisMachine

        sizes = _model_shapes(model) if model is not None else _shapes(shapes) if shapes else COMMON_SHAPES
        sweep = Sweep(sizes, _numbers(rows, "--rows"), _specs(operator), repeats)
        machine, tracker = _machine(target, rpc, key, only_compile=explain)
        if explain:
            for line in _explanations(sweep, machine):
                print(line)
            return
        if output is None:
            raise TaskError("say where to write the table: --output FILE, or ask with --explain")
        where = AnotherMachine(tracker, machine, threads, not warm) if tracker else ThisMachine(threads, not warm)
        _write_profile(sweep, where, output)


@contextmanager
def explained() -> Iterator[None]:
    """Errors of the kernels that a user can put right become task errors."""
    try:
        from tvm_kernels.bridge import MissingKernelError
        from tvm_kernels.remote import RemoteError
        from tvm_kernels.schedules.rule import NoRuleError
    except ModuleNotFoundError as error:
        raise TaskError(f"{error}; kernels need: pip install 'shiftadd-transformers[kernels]'") from error
    from tvm_kernels.host import LinkError
    from tvm_kernels.tune import TuneError

    try:
        yield
    except TaskError:
        raise
    except (MissingKernelError, NoRuleError, RemoteError, LinkError, TuneError, ValueError, OSError) as error:
        raise TaskError(str(error)) from error


def _write_profile(sweep: Any, where: Any, output: Path) -> None:
    from tasks.config import write_text
    from tvm_kernels.profile import profile as run_profile

    table: dict[str, Any] = {"rows": [], "missing": []}
    try:
        with _progress() as progress:
            bar = progress.add_task("measuring", total=sweep.size)
            for table in run_profile(sweep, where, lambda count: progress.advance(bar, count)):
                write_text(output, json.dumps(table, indent=1) + "\n")
    except KeyboardInterrupt:
        raise Interrupted(
            f"stopped; {output} holds the {len(table['rows'])} rows of the shapes that were done"
        ) from None
    for row in table["rows"]:
        print(f"{row['m']:5} x {row['k']} x {row['n']:<6} {_spec_text(row):46} {row['us']:10.1f} us")
    for row in table["missing"]:
        print(f"      {row['k']} x {row['n']:<6} {_spec_text(row):46} missing: {row['reason']}")
    print(f"table: {output}")


def _spec_text(row: dict[str, Any]) -> str:
    from shiftadd_transformers.specs import spec_from_dict

    return str(spec_from_dict(row["spec"]))


def _explanations(sweep: Any, machine: Target) -> Iterator[str]:
    from shiftadd_transformers.specs import DenseSpec
    from tvm_kernels.bridge import MissingKernelError
    from tvm_kernels.explain import explain
    from tvm_kernels.samples import sample_layer
    from tvm_kernels.schedules.rule import NoRuleError

    for k, n in sweep.shapes:
        for spec in sweep.specs:
            if isinstance(spec, DenseSpec):
                continue
            layer = sample_layer(spec, k, n)
            for m in sweep.rows:
                yield f"{m} x {k} x {n} {spec} on {machine.name}"
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


def _machine(
    target: str, rpc: str | None, key: str | None, only_compile: bool = False
) -> tuple[Target, Tracker | None]:
    """The target, and where it is unless it is this machine."""
    from tvm_kernels.remote import Tracker
    from tvm_kernels.targets import runs_here
    from tvm_kernels.targets import target as look_up

    machine = look_up(target)
    if (rpc is None) != (key is None):
        raise TaskError("a machine on a tracker is named by both --rpc HOST:PORT and --key KEY")
    if rpc is not None and key is not None:
        return machine, Tracker.of(rpc, key)
    if not (only_compile or runs_here(machine)):
        raise TaskError(
            f"this machine cannot run {machine.name}; measure on one that can with --rpc HOST:PORT --key KEY"
        )
    return machine, None


def _tuned_layers(
    model: Path | None, shapes: list[str] | None, rows: list[int], machine: Target
) -> Iterator[tuple[Iterable[nn.Module], list[int], str | None]]:
    """Layers, numbers of rows, and the one kernel that is meant; None for all."""
    from shiftadd_transformers.specs import ShiftSpec
    from tvm_kernels.samples import sample_layer

    if model is not None:
        yield _packed_layers(model), rows, None
    elif shapes:
        for text in shapes:
            name, m, k, n = _kernel_shape(text)
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


def _packed_layers(folder: Path) -> list[nn.Module]:
    from shiftadd_transformers import hf
    from shiftadd_transformers.layers import PackedModule

    _check_model(folder)
    layers = [module for module in hf.load(folder).modules() if isinstance(module, PackedModule)]
    if not layers:
        raise TaskError(f"{folder} holds no packed layers to tune for; pack the model and save it, see pack_")
    return layers


def _model_shapes(folder: Path) -> list[tuple[int, int]]:
    """Distinct (K, N) of the layers that rules can convert; weights are not read."""
    import torch
    import transformers

    from shiftadd_transformers import make_plan
    from shiftadd_transformers.layers import dense_weight

    _check_model(folder)
    config = transformers.AutoConfig.from_pretrained(folder)
    names = config.architectures or []
    if not names or not hasattr(transformers, names[0]):
        raise TaskError(f"{folder}/config.json names no model class of transformers; give --shapes")
    with torch.device("meta"):
        model = getattr(transformers, names[0])(config)
    plan = make_plan(model, [{"match": "*", "op": "shift"}])
    weights = (dense_weight(model.get_submodule(name)) for name in plan.converted)
    return list(dict.fromkeys((weight.shape[1], weight.shape[0]) for weight in weights))


def _check_model(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise TaskError(f"{folder} is no model folder: it has no config.json")


def _specs(operators: list[str] | None) -> tuple[Spec, ...]:
    from shiftadd_transformers.specs import as_spec
    from tvm_kernels.samples import SPECS

    if not operators:
        return SPECS
    chosen: list[Spec] = []
    for text in operators:
        named = [spec for spec in SPECS if spec.kind == text]
        chosen += named or [as_spec(json.loads(text) if text.startswith("{") else text)]
    return tuple(dict.fromkeys(chosen))


def _kernel_shape(text: str) -> tuple[str, int, int, int]:
    name, _, sizes = text.partition(":")
    numbers = _numbers(sizes, f"--shape {text}")
    if len(numbers) != 3:
        raise TaskError(f"--shape {text!r}: write KERNEL:M,K,N, e.g. shift_linear:1,768,3072")
    return name, *numbers  # type: ignore[return-value]


def _shapes(text: str) -> list[tuple[int, int]]:
    found = []
    for part in text.split(","):
        numbers = _numbers(part.replace("x", ","), f"--shapes {part}")
        if len(numbers) != 2:
            raise TaskError(f"--shapes {part!r}: write KxN, e.g. 768x3072")
        found.append((numbers[0], numbers[1]))
    return found


def _numbers(text: str, option: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise TaskError(f"{option}: {text!r} is no list of positive numbers such as 1,16,128")
    return [int(part) for part in parts]


def _outcome_line(outcome: Any) -> str:
    shape, values = outcome.kernel.shape, ", ".join(f"{name}={value}" for name, value in outcome.decisions.items())
    gain = outcome.before_us / outcome.us
    failed = f", {len(outcome.failures)} failed" if outcome.failures else ""
    return (
        f"{outcome.kernel.name} {shape}: {outcome.rule} {values}, {outcome.us:.1f} us, "
        f"{gain:.2f} times as fast as before ({outcome.tried} tried{failed})"
    )


def _progress() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)
