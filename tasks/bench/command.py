"""`shiftadd bench`: time every kernel beside its baselines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tasks.errors import TaskError, nearest

if TYPE_CHECKING:
    from rich.console import Console

    from .cases import Contest
    from .measure import Row

_ROUNDS, _QUICK_ROUNDS = 15, 5


def bench(
    json: Annotated[Path | None, typer.Option(help="Write the rows there, as they come.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw them there, e.g. kernels.png.")] = None,
    kernel: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only this operator, e.g. shift_linear; repeatable.")
    ] = None,
    threads: Annotated[list[int] | None, typer.Option(min=1, help="Repeatable; 1 and 2 by default.")] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help=f"Turns of each contender; {_ROUNDS} by default.")] = None,
    quick: Annotated[bool, typer.Option(help=f"One thread and {_QUICK_ROUNDS} rounds, unless given.")] = False,
) -> None:
    """Time the kernels beside what one would call instead, interleaved in one process.

    Each kernel is first compared with its operator's PyTorch body at the very shape; one that differs gets no figures,
    and the exit code is 1.
    """
    try:
        import tvm_kernels  # noqa: F401 - is it there?
    except ImportError as error:
        raise TaskError(f"kernels need packages that are not installed ({error}): install .[kernels]") from error
    from rich.console import Console

    from .cases import CONTESTS

    _check_writable(json, plot)
    contests = selected(CONTESTS, kernel or ())
    numbers = threads or ((1,) if quick else (1, 2))
    rows, red = run(Console(), contests, numbers, rounds or (_QUICK_ROUNDS if quick else _ROUNDS), json)
    if plot is not None and rows:
        from .report import plot as draw

        draw(plot, rows)
    if red:
        raise typer.Exit(1)
    if not rows:
        raise TaskError("nothing was measured: no kernel serves these operators on this machine")


def run(
    console: Console, contests: Sequence[Contest], threads: Sequence[int], rounds: int, json: Path | None = None
) -> tuple[list[Row], bool]:
    """Measure all contests and print each when it ends.

    Args:
        console: where to print.
        contests: what to measure.
        threads: numbers of threads.
        rounds: turns of each contender.
        json: where to write the rows so far.

    Returns:
        the rows, and whether any kernel was red.
    """
    from .machine import description
    from .measure import measure
    from .report import show, write_json

    console.print(description(), highlight=False)
    rows, red = [], False
    for contest in contests:
        for number in threads:
            with console.status(f"{contest}: {number} thread(s)"):
                result = measure(contest, number, rounds)
            show(console, contest, number, result)
            rows += result.rows
            red = red or bool(result.red)
            if json is not None:
                write_json(json, rows)
    return rows, red


def selected(contests: Sequence[Contest], kernels: Sequence[str]) -> list[Contest]:
    """Contests with the named kernels alone; all where none is named.

    Raises:
        TaskError: a name is unknown.
    """
    known = {subject.kernel for contest in contests for subject in contest.subjects}
    for name in kernels:
        if name not in known:
            raise TaskError(f"no kernel {name!r}{nearest(name, known)}")
    wanted = set(kernels) or known
    reduced = [replace(each, subjects=tuple(s for s in each.subjects if s.kernel in wanted)) for each in contests]
    return [contest for contest in reduced if contest.subjects]


def _check_writable(*paths: Path | None) -> None:
    """Before minutes of work, not behind them."""
    for path in paths:
        if path is not None and not path.parent.is_dir():
            raise TaskError(f"cannot write {path}: there is no folder {path.parent}")
