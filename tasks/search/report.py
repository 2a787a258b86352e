"""What did a search find, and how far is it to be believed? One self-contained HTML page.

Everything on it comes from the dictionary that is also written as search.json, so that page and file cannot disagree.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from shiftadd_transformers.cost.report import joules, quantity
from shiftadd_transformers.plan import Plan
from tasks.config import write_text
from tasks.pages import page, picture, plt, section, table, text
from tasks.search.charts import front_figure, hypervolume_figure, plan_figure, shown, trust_figure

Report = Mapping[str, Any]
Point = Mapping[str, Any]
Objective = Mapping[str, Any]

MAPS_NOTE = "Blocks from top to bottom; core is what happens between the projections of an attention."
LISTED = 12
"""A space with more decisions is folded away."""


def write(report: Report, path: str | os.PathLike[str]) -> Path:
    """Write the page of a search, whole or not at all.

    Args:
        report: What search.json holds.
        path: Of the HTML file.

    Returns:
        The path.
    """
    write_text(path, render(report))
    return Path(path)


def render(report: Report) -> str:
    """The whole page.

    Args:
        report: What search.json holds: title, task, space, objectives (the first is the quality), points, front
            (indices of points), references, hypervolume, trust, retrained, supernet, settings. Parts that are None
            or empty are left out.

    Returns:
        HTML text without any reference to another file.
    """
    # A "$" in a name is a dollar, not the start of a formula.
    with plt.rc_context({"text.parse_math": False}):
        sections = {
            "Fronts": _drawn(front_figure(report), _fronts_note(report)),
            "Plans on the front": _front_table(report),
            "Which layer computes how": _drawn(plan_figure(report), MAPS_NOTE),
            "Retrained": _retrained(report),
            "What the scores are worth": _trust(report["trust"]),
            "Covered volume": _hypervolume(report),
            "Supernet": _supernet(report["supernet"]),
            "Space": _space(report["space"]),
            "Settings": _pairs(report["settings"]),
        }
    return page(report["title"], [_headline(report), *(section(name, body) for name, body in sections.items() if body)])


def _headline(report: Report) -> str:
    evaluated, front = len(report["points"]), len(report["front"])
    *others, last = (text(objective["name"]) for objective in report["objectives"])
    names = f"{', '.join(others)} and {last}" if others else last
    words = [
        f"Of <b>{_count(report['space']['count'])}</b> possible plans, <b>{evaluated}</b> "
        f"{'was' if evaluated == 1 else 'were'} evaluated for {names}."
    ]
    if not front:
        return f"<h1>{text(report['title'])}</h1><p>{words[0]}</p>{_nothing_fits(report)}"
    limited = any(objective["budget"] is not None for objective in report["objectives"])
    words.append(
        f"<b>{front}</b> {'is' if front == 1 else 'are'} on the front: no other evaluated plan"
        f"{' within the budgets' if limited else ''} is better in one of these and as good in all others."
    )
    gains = "".join(f"<li>{_gain(report, cost)}</li>" for cost in report["objectives"][1:])
    body = f"<p>{' '.join(words)}</p>" + (f"<ul>{gains}</ul>" if gains else "")
    return f"<h1>{text(report['title'])}</h1>{body}{_reservations(report)}"


def _nothing_fits(report: Report) -> str:
    """What to say where the front is empty."""
    closest = min(report["points"], key=lambda point: point["excess"], default=None)
    if closest is None:
        return "<p class='warning'>No plan was evaluated, so there is no front.</p>"
    scores = ", ".join(f"{o['name']} {_shown(o, closest)}{_limit(o)}" for o in report["objectives"])
    summary = Plan.from_dict(closest["plan"]).summary()
    return (
        "<p class='warning'>No evaluated plan is within the budgets, so there is no front. The closest exceeds them by "
        f"{closest['excess']:.1%} in all: {text(scores)} ({text(summary)}). Raise a budget, offer cheaper operators, "
        "or search longer.</p>"
    )


def _gain(report: Report, cost: Objective) -> str:
    """What the front saves of a cost beside the dense model, and at which quality."""
    quality = report["objectives"][0]
    front = [report["points"][index] for index in report["front"]]
    cheapest = min(range(len(front)), key=lambda i: _loss(cost, front[i]))
    dense = _reference(report, "dense")
    if dense is None or dense["scores"].get(cost["name"]) is None or dense["scores"].get(quality["name"]) is None:
        at = f"{text(quality['name'])} {_bold(quality, front[cheapest])}"
        return f"The best {text(cost['name'])} is {_bold(cost, front[cheapest])} (#{cheapest}), at {at}."
    better = [i for i in range(len(front)) if _loss(cost, front[i]) < _loss(cost, dense)]
    as_good = [i for i in better if _loss(quality, front[i]) <= _loss(quality, dense)]
    number = min(as_good or better or [cheapest], key=lambda i: _loss(cost, front[i]))
    name = text(cost["name"])
    found = (
        f"{_bold(cost, front[number])} ({_difference(cost, front[number], dense)} against dense) at "
        f"{text(quality['name'])} {_bold(quality, front[number])} (dense: {text(_shown(quality, dense))})."
    )
    if as_good:
        return f"Of the front's plans that score as well as the dense model, #{number} improves {name} most: {found}"
    if better:
        most = f"#{number} improves it most: {found}"
        return f"No plan on the front that improves {name} scores as well as the dense model; {most}"
    return f"No plan on the front improves {name}; #{number} comes closest: {found}"


def _reservations(report: Report) -> str:
    """What stands between these scores and plans that are trained for themselves."""
    words, trust = [], report["trust"]
    if report["supernet"] is not None:
        words.append("Plans were scored with weights that all of them share, in one supernet.")
    if trust is not None:
        words.append(
            f"Over {len(trust['plans'])} plans that were also trained for themselves, the order of these scores agrees "
            f"with theirs by Kendall's τ = <b>{_decimal(trust['tau'])}</b> (p = {_decimal(trust['p'])})."
        )
    if report["retrained"]:
        words.append("What retrained plans reach is below; small gaps between single trainings say little.")
    return f"<p>{' '.join(words)}</p>" if words else ""


def _fronts_note(report: Report) -> str:
    words = "Each dot is a plan that was evaluated."
    if report["front"]:
        words += " #0, #1, … are the plans of front.json."
    if report["front"] and len(report["objectives"]) > 2:
        words += " Plans of the front beside the line are better in an objective that is not drawn there."
    return words


def _front_table(report: Report) -> str:
    """Scores with their differences to the uniform references, and what each plan consists of."""
    if not report["front"]:
        return ""
    beside = [found for name in ("dense", "shift") if (found := _reference(report, name)) is not None]
    rows = []
    for number, index in enumerate(report["front"]):
        point = report["points"][index]
        cells = [
            f"<td>{text(_shown(o, point))}"
            + "".join(f"<small>{_difference(o, point, r)} vs {text(r['name'])}</small>" for r in beside)
            + "</td>"
            for o in report["objectives"]
        ]
        summary = text(Plan.from_dict(point["plan"]).summary())
        rows.append(f"<tr><td>#{number}</td>{''.join(cells)}<td class='text'>{summary}</td></tr>")
    head = "".join(f"<th>{text(name)}</th>" for name in ("plan", *(o["name"] for o in report["objectives"])))
    return (
        f"<table><thead><tr>{head}<th class='text'>what computes how</th></tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _retrained(report: Report) -> str:
    rows = report["retrained"]
    if not rows:
        return ""
    metrics = list(dict.fromkeys(metric for row in rows for metric in row["quality"]))
    dense = next((row["energy_pj"] for row in rows if row["name"] == "dense"), None)
    cells = [
        [
            row["name"],
            *(shown(row["quality"].get(metric)) for metric in metrics),
            joules(row["energy_pj"]),
            *([f"{row['energy_pj'] / dense:.0%}"] if dense else []),
            quantity(row["stored_bytes"], "B"),
            f"{row['steps']:,}",
            f"{row['minutes']:.1f}",
            str(row["seed"]),
        ]
        for row in rows
    ]
    share = ["of dense"] if dense else []
    head = ["plan", *metrics, "energy", *share, "packed size", "steps", "minutes", "seed"]
    return table(head, cells) + "<p class='signature'>Energy is modelled, for one forward with memory traffic.</p>"


def _trust(trust: Mapping[str, Any] | None) -> str:
    if trust is None:
        return ""
    box = f"<p class='warning'>{text(trust['warning'])}</p>" if trust["warning"] else ""
    caption = (
        f"Kendall's τ = {_decimal(trust['tau'])}, p = {_decimal(trust['p'])} over {len(trust['plans'])} plans; "
        f"weights shared: {trust['sharing']}"
    )
    return box + _drawn(trust_figure(trust), caption)


def _hypervolume(report: Report) -> str:
    found = report["hypervolume"]
    figure = hypervolume_figure(found)
    if figure is None:
        return ""
    units = {objective["name"]: objective["unit"] for objective in report["objectives"]}
    corner = ", ".join(f"{name} {shown(value, units.get(name, ''))}" for name, value in found["reference"].items())
    words = f"Volume between the front and {corner}; 100% is that of this search at its end."
    ends = [history[-1] / found["search"][-1] for history in found["random"] or [] if history]
    if ends:
        words += f" Plans drawn at random cover {min(ends):.1%} to {max(ends):.1%} of it at the end of theirs."
    return picture(figure, words)


def _supernet(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return ""
    ratio = f" ({found['parameters'] / found['dense_parameters']:.2f}× dense)" if found["dense_parameters"] else ""
    return _pairs(
        {
            "parameters": quantity(found["parameters"]) + ratio,
            "sharing": found["sharing"],
            "steps": f"{found['steps']:,}",
            "minutes": f"{found['minutes']:.1f}",
            "validation loss": _decimal(found["validation_loss"]),
        }
    )


def _space(space: Mapping[str, Any]) -> str:
    words = f"{space['decisions']} decisions, {_count(space['count'])} plans"
    body = table(["decision", "choices"], space["table"], words=True)
    if len(space["table"]) > LISTED:
        return f"<details><summary>{words}</summary>{body}</details>"
    return f"<p>{words}</p>{body}"


def _pairs(pairs: Mapping[str, Any]) -> str:
    return table(["", "value"], [[key, str(value)] for key, value in pairs.items()], words=True) if pairs else ""


def _drawn(figure: Figure | None, caption: str = "") -> str:
    return "" if figure is None else picture(figure, caption)


def _reference(report: Report, name: str) -> Point | None:
    return next((found for found in report["references"] if found["name"] == name), None)


def _loss(objective: Objective, point: Point) -> float:
    """A score that is there, turned so that less is better."""
    value: float = point["scores"][objective["name"]]
    return value if objective["direction"] == "minimise" else -value


def _shown(objective: Objective, point: Point) -> str:
    return shown(point["scores"].get(objective["name"]), objective["unit"])


def _bold(objective: Objective, point: Point) -> str:
    return f"<b>{text(_shown(objective, point))}</b>"


def _limit(objective: Objective) -> str:
    return "" if objective["budget"] is None else f" (budget {shown(objective['budget'], objective['unit'])})"


def _difference(objective: Objective, point: Point, base: Point) -> str:
    """In parts of the base, or plain where the base is 0 or unmeasured."""
    value, other = (found["scores"].get(objective["name"]) for found in (point, base))
    if value is None or other is None:
        return "not comparable"
    if value == other:
        return "equal"
    if not other:
        return f"{value:+.3g}".replace("-", "−")
    part = (value - other) / abs(other)
    return (f"{part:+.0%}" if abs(part) >= 0.1 else f"{part:+.1%}").replace("-", "−")


def _count(number: int) -> str:
    """Exact while it can be read."""
    return f"{number:,}" if number < 10**15 else f"{Decimal(number):.2e}"


def _decimal(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
