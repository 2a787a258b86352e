"""How are figures shown? As a table when a contest ends, as JSON, and as a plot that is drawn from the same rows."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from .cases import PLACES, Contest
from .measure import Result, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NOTABLE = 1.05
"""PyTorch's dispatcher is mentioned where the call takes this many times as long as the kernel alone."""
_OURS, _THEIRS = "#2f6fde", "#9aa5b1"


def show(console: Console, contest: Contest, threads: int, result: Result) -> None:
    """Print what one contest gave."""
    title = f"{contest}, {_threads(threads)}"
    if result.rows:
        console.print(_table(title, result.rows), *_notes(result.rows), sep="\n", highlight=False)
    else:
        console.print(title, style="bold")
    for name, reason in result.unserved.items():
        console.print(f"no kernel for {name}: {reason}", style="yellow", highlight=False)
    for name, problem in result.red.items():
        console.print(f"RED, no figures: {name}: {problem}", style="bold red", highlight=False)
    console.print()


def write_json(path: Path, rows: Sequence[Row]) -> None:
    """Write all rows so far."""
    text = json.dumps([row.as_json() for row in rows], indent=2, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def plot(path: Path, rows: Sequence[Row]) -> None:
    """Draw a panel per contest, with a column per number of threads.

    Args:
        path: the picture; its suffix says the format.
        rows: what was measured, at least one row.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    panels = _panels(rows)
    lines, columns = (list(dict.fromkeys(keys)) for keys in zip(*panels, strict=True))
    heights = [2 + max(len(_bars(panels[key])) for key in panels if key[0] == line) for line in lines]
    size = (8 * len(columns), 0.25 * sum(heights))
    figure, grid = plt.subplots(
        len(lines), len(columns), figsize=size, height_ratios=heights, squeeze=False, layout="constrained"
    )
    for axes in grid.flat:
        axes.set_axis_off()
    for (line, threads), together in panels.items():
        _draw(grid[lines.index(line), columns.index(threads)], together)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def _panels(rows: Sequence[Row]) -> dict[tuple[object, int], list[Row]]:
    """Rows of one contest and number of threads, by both."""
    panels: dict[tuple[object, int], list[Row]] = {}
    for row in rows:
        contest = (row.shape, row.weights, *row.baselines, *row.missing)
        panels.setdefault((contest, row.threads), []).append(row)
    return panels


def _bars(rows: Sequence[Row]) -> dict[str, float]:
    return {**{row.name: row.us for row in rows}, **rows[0].baselines}


def _draw(axes: Axes, rows: Sequence[Row]) -> None:
    bars, first = _bars(rows), rows[0]
    colours = [_OURS] * len(rows) + [_THEIRS] * len(first.baselines)
    drawn = axes.barh(list(bars), list(bars.values()), color=colours)
    axes.bar_label(drawn, [_microseconds(us) for us in bars.values()], padding=3)
    axes.set_axis_on()
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_xticks([])
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.set_title(
        f"{first.shape}, {PLACES[first.weights]}, {_threads(first.threads)}, µs", loc="left", fontsize="medium"
    )


def _table(title: str, rows: Sequence[Row]) -> Table:
    """A line per contender; for each kernel a column with how many times its time the others take."""
    table = Table("", "µs", *(f"÷ {row.name}" for row in rows), title=title, title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    for row in rows:
        table.add_row(
            row.name, _microseconds(row.us), *("1.00" if other is row else "" for other in rows), style="bold"
        )
    first = rows[0]
    for name, us in first.baselines.items():
        table.add_row(name, _microseconds(us), *(f"{row.ratios[name]:.2f}" for row in rows))
    for name in first.missing:
        table.add_row(name, "missing")
    return table


def _notes(rows: Sequence[Row]) -> Iterator[str]:
    for row in rows:
        yield f"{row.name}: a plain read of its weight takes {row.read_bandwidth_fraction:.0%} of its time"
        if row.us > _NOTABLE * row.bridge_us:
            yield f"{row.name}: {_microseconds(row.bridge_us)} µs without PyTorch's dispatcher"
    for name, reason in rows[0].missing.items():
        yield f"missing: {name}: {reason}"


def _microseconds(us: float) -> str:
    return f"{us:,.0f}" if us >= 100 else f"{us:.1f}"


def _threads(number: int) -> str:
    return f"{number} thread{'s' * (number > 1)}"
