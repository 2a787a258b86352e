"""On which machine is measured, and what do its failures say to a user?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tasks.errors import TaskError

if TYPE_CHECKING:
    from rich.progress import Progress

    from tvm_kernels.remote import Tracker
    from tvm_kernels.targets import Target


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


def machine_of(
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


def progress() -> Progress:
    """A bar with an estimate on the error stream, gone when it is done."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)
