"""Which pictures show how a search went? Fronts, plans side by side, covered volume, and trust in the scores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from shiftadd_transformers.cost.report import joules, quantity
from shiftadd_transformers.plan import Plan
from tasks.pages import plt
from tasks.plan_maps import plan_maps

Report = Mapping[str, Any]
Objective = Mapping[str, Any]

INK, LIGHT, DARK, BUDGET = "#2f6fde", "#9aa5b1", "#2b3440", "#c0392b"
MAPS = 6
"""So many plans are drawn layer by layer."""


def shown(value: float | None, unit: str = "", digits: str = "#.4g") -> str:
    """A score with its unit, as tables and axes write it.

    Args:
        value: None where it was not measured.
        unit: Picojoules and bytes get the prefix that suits them.
        digits: Format of numbers that are neither these nor large.

    Examples:
        >>> shown(1.5e6, "pJ"), shown(2048, "B"), shown(3.1), shown(31.4, "µs", "g"), shown(None)
        ('1.5 uJ', '2.05 kB', '3.100', '31.4 µs', 'not measured')
    """
    if value is None:
        return "not measured"
    if unit == "pJ":
        return joules(value)
    if unit == "B" or (not unit and abs(value) >= 1e4):
        return quantity(value, unit)
    return f"{value:{digits}} {unit}".strip()


def spread(count: int, most: int) -> list[int]:
    """At most so many indices, evenly over all, both ends included.

    Examples:
        >>> spread(9, 3), spread(2, 6), spread(0, 6)
        ([0, 4, 8], [0, 1], [])
    """
    if count <= most:
        return list(range(count))
    return [round(i * (count - 1) / (most - 1)) for i in range(most)]


def front_figure(report: Report) -> Figure | None:
    """The first objective against each other one; None where there is nothing to draw."""
    quality, *costs = report["objectives"]
    seen = [*report["points"], *report["references"]]
    drawn = [cost for cost in costs if _places(seen, cost, quality)]
    if not drawn:
        return None
    across = min(2, len(drawn))
    down = -(-len(drawn) // across)
    figure, grid = plt.subplots(down, across, figsize=(10, 4.4 * down), squeeze=False, layout="constrained")
    for axes in grid.flat[len(drawn) :]:
        axes.set_visible(False)
    handles: dict[str, Any] = {}
    for axes, cost in zip(grid.flat, drawn, strict=False):
        _draw_front(axes, report, cost, quality)
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(handles.values(), handles.keys(), loc="outside upper left", ncols=6, frameon=False, fontsize=9)
    return figure


def plan_figure(report: Report) -> Figure | None:
    """Some plans of the front, one small map each; None where no module stands in a stack of layers."""
    front = [Plan.from_dict(report["points"][index]["plan"]) for index in report["front"]]
    tried = [Plan.from_dict(found["plan"]) for found in [*report["points"], *report["references"]] if found.get("plan")]
    return plan_maps({f"#{number}": front[number] for number in spread(len(front), MAPS)}, tried)


def hypervolume_figure(found: Mapping[str, Any]) -> Figure | None:
    """Volume that the front covers after each evaluation, in parts of what it covers at the end of this search.

    Args:
        found: The report's "hypervolume".

    Returns:
        The figure; None where the front covers nothing.
    """
    if not found["search"] or not found["search"][-1]:
        return None
    others = [history for history in found["random"] or [] if history]
    figure, axes = plt.subplots(figsize=(10, 3), layout="constrained")
    for number, history in enumerate(others):
        label = f"random, {len(others)} seeds" if number == 0 else None
        _draw_history(axes, history, found["search"][-1], color=LIGHT, linewidth=1, label=label)
    _draw_history(axes, found["search"], found["search"][-1], color=INK, linewidth=2, label="this search")
    # The start, where one or two plans are a front, would hide what comes after it.
    early = min(history[len(history) // 10] for history in [*others, found["search"]]) / found["search"][-1]
    axes.set_ylim(bottom=max(0.0, min(early, 1.0) - 0.03))
    axes.set_xlabel("evaluations")
    axes.set_ylabel("covered volume")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.legend(frameon=False, loc="lower right")
    _unframe(axes)
    return figure


def trust_figure(trust: Mapping[str, Any]) -> Figure | None:
    """What the supernet said of plans against what training them gave; None without such plans.

    Args:
        trust: The report's "trust".
    """
    plans = trust["plans"]
    if not plans:
        return None
    figure, axes = plt.subplots(figsize=(5.6, 4), layout="constrained")
    axes.scatter([p["supernet"] for p in plans], [p["retrained"] for p in plans], color=INK, zorder=3)
    axes.margins(0.15)
    # Trust lies along a diagonal: names stand above and below it in turn.
    for number, plan in enumerate(sorted(plans, key=lambda plan: (plan["supernet"], plan["retrained"]))):
        _write(axes, plan["name"], (plan["supernet"], plan["retrained"]), (-6, 3) if number % 2 else (6, -3))
    axes.set_xlabel(f"{trust['score']} in the supernet")
    axes.set_ylabel(f"{trust['score']} retrained")
    _unframe(axes)
    return figure


def _draw_front(axes: Axes, report: Report, cost: Objective, quality: Objective) -> None:
    points, front = report["points"], [report["points"][index] for index in report["front"]]
    able = [point for point in points if point["excess"] <= 0]
    beyond = [point for point in points if point["excess"] > 0]
    _scatter(axes, _places(able, cost, quality), label="evaluated", color=LIGHT, alpha=0.6, s=16)
    _scatter(axes, _places(beyond, cost, quality), label="beyond a budget", facecolor="none", edgecolor=LIGHT, s=16)
    best = _places(front, cost, quality)
    if best:
        axes.step(*zip(*_staircase(best, cost, quality), strict=True), where="post", color=INK, linewidth=1.2)
    _scatter(axes, best, label="front", color=INK, s=26, zorder=3)
    shape = {"marker": "D", "facecolor": "none", "edgecolor": DARK, "s": 60, "zorder": 4}
    _scatter(axes, _places(report["references"], cost, quality), label="same operator everywhere", **shape)
    axes.margins(0.1)
    _draw_budgets(axes, cost, quality)
    _draw_unscored(axes, beyond, cost, quality)
    _name_places(axes, report, cost, quality)
    for axis, objective in ((axes.xaxis, cost), (axes.yaxis, quality)):
        axis.set_major_locator(MaxNLocator(5))
        axis.set_major_formatter(FuncFormatter(lambda value, _, unit=objective["unit"]: shown(value, unit, ".4g")))
    axes.set_xlabel(cost["name"])
    axes.set_ylabel(quality["name"])
    _unframe(axes)


def _draw_unscored(axes: Axes, points: Iterable[Mapping[str, Any]], cost: Objective, quality: Objective) -> None:
    """Ticks at the foot for points of which only the cost is known."""
    places = [place for (place,) in _places((p for p in points if p["scores"].get(quality["name"]) is None), cost)]
    if places:
        style: dict[str, Any] = {
            "marker": "|",
            "linestyle": "none",
            "color": LIGHT,
            "label": "beyond a budget, not scored",
        }
        axes.plot(places, [0.015] * len(places), transform=axes.get_xaxis_transform(), **style)


def _name_places(axes: Axes, report: Report, cost: Objective, quality: Objective) -> None:
    """Numbers of the front stand on its better side, where no points are; other names on the other side."""
    side, up = -_sign(cost), -_sign(quality)
    taken: list[tuple[float, float]] = []
    for reference in report["references"]:
        for place in _places([reference], cost, quality):
            _write(axes, reference["name"], place, (-7 * side, -7 * up), taken, color=DARK, weight="bold")
    taken = []
    for number, index in enumerate(report["front"]):
        for place in _places([report["points"][index]], cost, quality):
            _write(axes, f"#{number}", place, (5 * side, 5 * up), taken, color=INK)


def _draw_history(axes: Axes, history: Sequence[float], whole: float, **style: Any) -> None:
    places = [value / whole for value in history]
    axes.step(range(1, len(history) + 1), places, where="post", **style)


def _draw_budgets(axes: Axes, cost: Objective, quality: Objective) -> None:
    line: dict[str, Any] = {"color": BUDGET, "linestyle": "--", "linewidth": 1}
    if cost["budget"] is not None:
        axes.axvline(cost["budget"], label="budget", **line)
    if quality["budget"] is not None:
        axes.axhline(quality["budget"], label="budget", **line)


def _places(points: Iterable[Mapping[str, Any]], *objectives: Objective) -> list[tuple[float, ...]]:
    """Scores in these objectives, of the points that have all of them."""
    scores = (tuple(point["scores"].get(o["name"]) for o in objectives) for point in points)
    return [place for place in scores if None not in place]


def _sign(objective: Objective) -> int:
    return 1 if objective["direction"] == "minimise" else -1


def _scatter(axes: Axes, places: Sequence[tuple[float, ...]], **style: Any) -> None:
    if places:
        axes.scatter(*zip(*places, strict=True), **style)


def _staircase(places: Sequence[tuple[float, ...]], cost: Objective, quality: Objective) -> list[tuple[float, ...]]:
    """The places that no other beats in these two objectives, the cheapest first."""
    signs = [_sign(cost), _sign(quality)]
    steps: list[tuple[float, ...]] = []
    for place in sorted(places, key=lambda place: [sign * value for sign, value in zip(signs, place, strict=True)]):
        if not steps or signs[1] * place[1] < signs[1] * steps[-1][1]:
            steps.append(place)
    return steps


def _write(
    axes: Axes,
    words: str,
    place: tuple[float, ...],
    offset: tuple[float, float],
    taken: list[tuple[float, float]] | None = None,
    **style: Any,
) -> None:
    """Name a place, unless a name stands there already."""
    x, y = axes.transLimits.transform(place)
    if any(abs(x - left) < 0.06 and abs(y - low) < 0.05 for left, low in taken or []):
        return
    if taken is not None:
        taken.append((x, y))
    style |= {"ha": "left" if offset[0] > 0 else "right", "va": "bottom" if offset[1] > 0 else "top"}
    axes.annotate(words, (place[0], place[1]), offset, textcoords="offset points", fontsize=8, zorder=5, **style)


def _unframe(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.2)
