"""Which pictures do the reports of all tasks share?  The plan, layer by layer, and the training curve."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import nn

from tasks.pages import plt

COLOURS = {
    "dense": "#9aa5b1",
    "shift": "#2f6fde",
    "adder": "#d9822b",
    "shift_add": "#8e5bd0",
    "bcq": "#2a9d6f",
    "mixture": "#1d3f78",
    "softmax": "#c9d0d8",
    "binary_linear": "#5aa9b8",
    "adder_attention": "#c2477f",
    "mixer": "#c9a82c",
}
OTHER_COLOURS = ("#7a5c46", "#8fae3d", "#5c6f7f", "#d2a58c")  # operators that are not listed


def plan_cells(model: nn.Module) -> list[dict[str, str]]:
    """Where each dense or converted layer stands and how it computes: the cells of `plan_map`.

    Args:
        model: dense, latent or packed.

    Returns:
        For each layer of a stack: row (its block), column (its name in the block), kind (its operator).

    Examples:
        >>> model = nn.ModuleDict({"layers": nn.ModuleList([nn.ModuleDict({"fc1": nn.Linear(2, 2)})])})
        >>> plan_cells(model)
        [{'row': 'layers 0', 'column': 'fc1', 'kind': 'dense'}]
    """
    from shiftadd_transformers.layers import is_dense

    found: list[tuple[list[str], str, str]] = []
    inside: tuple[str, ...] = ()
    for name, module in model.named_modules():
        place = block_of(name)
        spec = getattr(module, "spec", None)  # of layers and attention cores that were converted
        if place is not None and not name.startswith(inside) and (spec is not None or is_dense(module)):
            found.append((*place, "dense" if spec is None else spec.kind))
        if spec is not None:
            inside += (name + ".",)
    rows = row_names([block for block, _, _ in found])
    return [{"row": row, "column": column, "kind": kind} for row, (_, column, kind) in zip(rows, found, strict=True)]


def block_of(name: str) -> tuple[list[str], str] | None:
    """Splits a module's name into its block and its name there; None outside of stacks of blocks.

    Examples:
        >>> block_of("vit.layers.0.mlp.fc1"), block_of("lm_head")
        ((['vit', 'layers', '0'], 'mlp.fc1'), None)
    """
    place = re.fullmatch(r"((?:.*?\.)??(?:\w+\.\d+\.)+)(.+)", name)
    return None if place is None else (place[1].rstrip(".").split("."), place[2])


def row_names(blocks: Sequence[Sequence[str]]) -> list[str]:
    """What to call blocks: "vit.layers.0" is "layers 0" where nothing else than the ViT has layers."""
    shared = len({tuple(block[:1]) for block in blocks}) == 1 and not any(block[1].isdigit() for block in blocks)
    return [" ".join(block[1:] if shared else block) for block in blocks]


def plan_map(cells: Sequence[Mapping[str, str]]) -> Figure:
    """One square per layer, coloured by operator: blocks from top to bottom, names from left to right."""
    rows = list(dict.fromkeys(cell["row"] for cell in cells))
    columns = list(dict.fromkeys(cell["column"] for cell in cells))
    colours = _colours(dict.fromkeys(cell["kind"] for cell in cells))
    figure, axes = plt.subplots(figsize=(1.2 + 0.75 * len(columns), 0.8 + 0.42 * len(rows)))
    fill_map(axes, cells, rows, columns, colours)
    plt.setp(axes.get_xticklabels(), rotation=40, ha="right")
    axes.legend(swatches(colours), list(colours), loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return figure


def fill_map(
    axes: Axes,
    cells: Sequence[Mapping[str, str]],
    rows: Sequence[str],
    columns: Sequence[str],
    colours: Mapping[str, str],
) -> None:
    """Draw the squares of `plan_map` into axes, with rows and columns that several maps may share."""
    places = [(columns.index(cell["column"]), rows.index(cell["row"])) for cell in cells]
    squares = [Rectangle(place, 0.92, 0.86) for place in places]
    axes.add_collection(PatchCollection(squares, color=[colours[cell["kind"]] for cell in cells]))
    axes.set_xlim(0, len(columns))
    axes.set_ylim(len(rows), 0)
    axes.set_xticks([i + 0.46 for i in range(len(columns))], columns)
    axes.set_yticks([i + 0.43 for i in range(len(rows))], rows)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def swatches(colours: Mapping[str, str]) -> list[Rectangle]:
    """The squares of a legend."""
    return [Rectangle((0, 0), 1, 1, color=colour) for colour in colours.values()]


def loss_curves(curves: Mapping[str, Sequence[Mapping[str, float]]]) -> Figure:
    """Validation loss over steps; several trainings one after the other.

    Args:
        curves: name -> points with "step" and "loss".
    """
    figure, axes = plt.subplots(figsize=(10, 3))
    start = 0.0
    for name, points in curves.items():
        steps = [start + point["step"] for point in points]
        axes.plot(steps, [point["loss"] for point in points], label=name)
        start = steps[-1] if steps else start
    axes.set_xlabel("step")
    axes.set_ylabel("validation loss")
    axes.legend(frameon=False)
    return figure


def validation_points(history: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    """The points of a curve, from the rows of a history.json."""
    return [{"step": row["step"], "loss": float(row["eval_loss"])} for row in history if "eval_loss" in row]


def _colours(kinds: Mapping[str, Any]) -> dict[str, str]:
    others = [kind for kind in kinds if kind not in COLOURS]
    spare = {kind: OTHER_COLOURS[i % len(OTHER_COLOURS)] for i, kind in enumerate(others)}
    return {kind: colour for kind, colour in (COLOURS | spare).items() if kind in kinds}
