"""What do several commands have in common?  Options, and what stands behind them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from tasks.errors import TaskError

Override = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Overrides, e.g. train.learning_rate=1e-3."),
]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="The same as an option.")]
Kernels = Annotated[bool, typer.Option("--kernels", help="Run packed layers on kernels compiled for this machine.")]


@contextmanager
def compiled_kernels(wanted: bool) -> Iterator[None]:
    """Packed layers run on compiled kernels inside the block, if that is wanted."""
    if not wanted:
        yield
        return
    try:
        import tvm_kernels
    except ImportError as error:
        raise TaskError(f"--kernels needs `pip install shiftadd-transformers[kernels]` ({error})") from error
    try:
        with tvm_kernels.enabled():
            yield
    except tvm_kernels.MissingKernelError as error:
        raise TaskError(str(error)) from error


@contextmanager
def search_installed() -> Iterator[None]:
    """What is imported inside the block needs the packages of the search; without them, say which.

    Raises:
        TaskError: they are not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise TaskError(f"this needs `pip install shiftadd-transformers[search]` ({error})") from error
