"""How do several plans look side by side? A small map each, told from the plans alone, without a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from shiftadd_transformers.layers.attention import is_cross_attention
from shiftadd_transformers.plan import Entry, Plan
from shiftadd_transformers.specs import MixerSpec, SoftmaxSpec, Spec
from tasks.drawing import COLOURS, OTHER_COLOURS, block_of, fill_map, row_names, swatches
from tasks.pages import plt

Cell = dict[str, str]

MIXERS = {"conv": COLOURS["mixer"], "add": "#7a5c46", "shift_add": "#d98cae"}
LEFT_OUT = "left out"
PARTS = ("core", "q", "k", "v", "qkv", "o")
COLUMNS = (*PARTS, *(f"cross {part}" for part in PARTS), "gate", "gate_up", "up", "down")


def plan_maps(plans: Mapping[str, Plan], others: Sequence[Plan] = ()) -> Figure | None:
    """One square per layer and attention core, coloured by operator; all maps share rows, columns and the legend.

    Args:
        plans: Title of a map -> plan.
        others: More plans for the same model. A plan names the attentions that it changes; those that only others
            change are drawn as softmax.

    Returns:
        The figure; None where no module stands in a stack of layers.
    """
    known = [*plans.values(), *others]
    labels = spec_labels(known)
    maps = {title: cells for title, plan in plans.items() if (cells := map_cells(plan, known, labels))}
    if not maps:
        return None
    cells = [cell for found in maps.values() for cell in found]
    rows = list(dict.fromkeys(cell["row"] for cell in cells))
    columns = list(dict.fromkeys(cell["column"] for cell in cells))
    columns.sort(key=lambda part: COLUMNS.index(part) if part in COLUMNS else len(COLUMNS))
    colours = _palette(labels) | {LEFT_OUT: "#eef1f4"}
    used = {cell["kind"] for cell in cells}
    colours = {label: colour for label, colour in colours.items() if label in used}
    across = min(3, len(maps))
    down = -(-len(maps) // across)
    size = (min(10.0, 1.2 + across * (0.5 + 0.24 * len(columns))), 0.5 + down * (0.9 + 0.2 * len(rows)))
    figure, grid = plt.subplots(down, across, figsize=size, sharey=True, squeeze=False, layout="constrained")
    for axes in grid.flat[len(maps) :]:
        axes.set_visible(False)
    for axes, (title, found) in zip(grid.flat, maps.items(), strict=False):
        fill_map(axes, found, rows, columns, colours)
        axes.set_title(title, fontsize=10, loc="left")
        axes.tick_params(labelsize=7, axis="y")
        axes.tick_params(labelsize=7, axis="x", rotation=90)
    figure.legend(swatches(colours), list(colours), loc="outside upper left", ncols=5, frameon=False, fontsize=9)
    return figure


def map_cells(plan: Plan, others: Sequence[Plan], labels: Mapping[Spec, str]) -> list[Cell]:
    """Where each layer and attention core of a plan stands, and how it computes.

    Args:
        plan: To be drawn.
        others: Plans that may name more attentions.
        labels: What to call each spec, as from `spec_labels`.

    Returns:
        For each module of a stack: row (its block), column (its part in the block), kind (its operator).

    Examples:
        >>> from shiftadd_transformers.specs import ShiftSpec
        >>> plan = Plan({"model.layers.0.mlp.fc1": Entry(ShiftSpec(), "mlp.up", (8, 4))})
        >>> map_cells(plan, [], spec_labels([plan]))
        [{'row': 'layer 0', 'column': 'up', 'kind': 'shift'}]
    """
    cores = {n: e for other in others for n, e in other.entries.items() if e.spec.place == "attention"}
    missing = {n: Entry(SoftmaxSpec(), e.role, e.shape) for n, e in cores.items() if n not in plan.entries}
    entries = {**plan.entries, **missing}  # a plan's own layers come first: they set the order of the blocks
    placed = [(name, *place) for name in entries if (place := block_of(name)) is not None]
    rows = [_short(row) for row in row_names([block for _, block, _ in placed])]
    wanted = [(row, _part(name, entries[name].role, local)) for row, (name, _, local) in zip(rows, placed, strict=True)]
    return [
        {
            "row": row,
            "column": part if wanted.count((row, part)) == 1 else local,
            "kind": LEFT_OUT if _is_left_out(name, entries) else labels[entries[name].spec],
        }
        for (row, part), (name, _, local) in zip(wanted, placed, strict=True)
    ]


def spec_labels(plans: Sequence[Plan]) -> dict[Spec, str]:
    """What to call each spec of these plans: its operator, and its settings where several share one.

    Examples:
        >>> from shiftadd_transformers.specs import DenseSpec, MixerSpec
        >>> specs = [DenseSpec(), MixerSpec("add"), MixerSpec("add", attention=True)]
        >>> plan = Plan({str(spec): Entry(spec, "", (1, 1)) for spec in specs})
        >>> list(spec_labels([plan]).values())
        ['softmax', 'dense', 'mixer add', 'softmax + mixer add']
    """
    specs = dict.fromkeys([SoftmaxSpec(), *(e.spec for plan in plans for e in plan.entries.values())])
    short = {spec: _operator(spec) for spec in specs}
    return {spec: name if list(short.values()).count(name) == 1 else str(spec) for spec, name in short.items()}


def _operator(spec: Spec) -> str:
    if isinstance(spec, MixerSpec):
        return f"{'softmax + ' if spec.attention else ''}mixer {spec.op}"
    return spec.kind


def _short(row: str) -> str:
    words = [word for word in row.split() if word not in ("layers", "layer", "blocks", "block", "h")]
    return " ".join(words if any(not word.isdigit() for word in words) else ["layer", *words])


def _part(name: str, role: str, local: str) -> str:
    if role == "other":
        return local
    part = "core" if role in ("attn.self", "attn.cross") else role.rpartition(".")[2]
    return f"cross {part}" if role.startswith("attn.") and is_cross_attention(name) else part


def _is_left_out(name: str, entries: Mapping[str, Entry]) -> bool:
    """Whether this projects queries or keys for a mixer, which reads none."""
    attention = entries.get(name.rpartition(".")[0])
    spec = attention.spec if attention is not None else None
    return isinstance(spec, MixerSpec) and not spec.attention and entries[name].role in ("attn.q", "attn.k")


def _palette(labels: Mapping[Spec, str]) -> dict[str, str]:
    """A colour per operator, cores after layers; variants of one are lighter and lighter."""
    seen: dict[str, int] = {}
    colours: dict[str, str] = {}
    for spec, label in sorted(labels.items(), key=lambda pair: (pair[0].place == "attention", len(pair[1]), pair[1])):
        base = MIXERS[spec.op] if isinstance(spec, MixerSpec) else COLOURS.get(spec.kind)
        if base is None:
            base = OTHER_COLOURS[len(colours) % len(OTHER_COLOURS)]
        white = min(0.65, 0.45 * seen.get(base, 0))
        seen[base] = seen.get(base, 0) + 1
        red, green, blue = ((1 - white) * part + white for part in to_rgb(base))
        colours[label] = to_hex((red, green, blue))
    return colours
