"""The demo's report as one self-contained HTML page: tables, plots as inline SVG, sample translations.

Everything on the page comes from the report dictionary, the same that is written as report.json, so that page and
file cannot disagree.
"""

from __future__ import annotations

import html
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from shiftadd_transformers.cost.report import quantity

Report = Mapping[str, Any]

COLOURS = {
    "dense": "#9aa5b1",
    "shift": "#2f6fde",
    "adder": "#d9822b",
    "shift_add": "#8e5bd0",
    "bcq": "#2a9d6f",
}
STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --ink: #2f6fde; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { margin-bottom: 0; } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
table { border-collapse: collapse; width: 100%; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .6rem; text-align: right; border-bottom: 1px solid var(--line); vertical-align: top; }
th:first-child, td:first-child, td.text, th.text { text-align: left; }
tr.best { background: var(--soft); }
figure { margin: 1rem 0; background: #fff; border-radius: 8px; padding: .5rem; overflow-x: auto; }
figure svg { max-width: 100%; height: auto; } figcaption { color: #555; font-size: .85rem; }
code, .signature { font: .8rem ui-monospace, monospace; } .signature { color: #888; }
"""


def render(report: Report) -> str:
    """The whole page.

    Args:
        report: What report.json holds.

    Returns:
        HTML text without any reference to another file.
    """
    sections = [
        _headline(report),
        _section("Quality, size, energy", _models_table(report) + _figure(_quality_and_energy, report)),
        _section("Beside dense baselines", _baseline_table(report)),
        _section("Which layer computes how", _figure(_plan_map, report) + _plan_note(report)),
        _section("Training", _figure(_curves, report)),
        _section("Translations", _samples(report)),
        _section("Data and settings", _settings(report)),
    ]
    return (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{_text(report['title'])}</title>"
        f"<meta name='viewport' content='width=device-width'><style>{STYLE}</style></head>"
        f"<body>{''.join(sections)}</body></html>"
    )


def _headline(report: Report) -> str:
    dense, packed = report["models"][0], report["models"][-1]
    kept = packed["bleu"] / dense["bleu"] if dense["bleu"] else 0.0
    multiplications = 1 - packed["operations"]["multiply"] / dense["operations"]["multiply"]
    energy = {name: row["energy"]["total_uj"] for name, row in report["baselines"].items()}
    return (
        f"<h1>{_text(report['title'])}</h1><p>The packed shift-add model reaches <b>{kept:.0%}</b> of the dense "
        f"model's BLEU in <b>{packed['bytes'] / dense['bytes']:.0%}</b> of its size, with "
        f"<b>{multiplications:.0%}</b> of the multiplications gone. It started from the dense model and trained on, "
        "with it as a teacher; where the dense model had not finished learning, part of the score is that extra time. "
        f"Modelled energy is {energy['packed'] / energy['dense fp32']:.2f}× that of fp32 and "
        f"{energy['packed'] / energy['dense int8']:.2f}× that of int8, which also quantizes the embeddings and the "
        "head; here they stay in fp32.</p>"
    )


def _models_table(report: Report) -> str:
    head = ["model", "BLEU", "chrF++", "size", "multiply", "add", "shift", "look-up", "compute", "memory"]
    rows = []
    for model in report["models"]:
        ops, energy = model["operations"], model["energy"]
        rows.append(
            [model["name"], f"{model['bleu']:.2f}", f"{model['chrf']:.2f}", f"{model['bytes'] / 1e6:.2f} MB"]
            + [quantity(ops[kind]) for kind in ("multiply", "add", "shift", "lookup")]
            + [f"{energy[part]:.2f} µJ" for part in ("compute_uj", "memory_uj")]
        )
    signatures = {report["models"][0]["bleu_signature"], report["models"][0]["chrf_signature"]}
    notes = "".join(f"<div class='signature'>{_text(s)}</div>" for s in sorted(signatures))
    return _table(head, rows) + notes + f"<p class='signature'>{_text(report['cost_input'])}</p>"


def _baseline_table(report: Report) -> str:
    head = ["variant", "multiply", "add", "shift", "look-up", "weights", "compute", "memory", "total"]
    rows = [
        [name]
        + [quantity(row["operations"][kind]) for kind in ("multiply", "add", "shift", "lookup")]
        + [f"{row['weight_bytes'] / 1e6:.2f} MB"]
        + [f"{row['energy'][part]:.2f} µJ" for part in ("compute_uj", "memory_uj", "total_uj")]
        for name, row in report["baselines"].items()
    ]
    return _table(head, rows)


def _samples(report: Report) -> str:
    head = ["source", "reference", *(model["name"] for model in report["models"])]
    rows = [[s["source"], s["reference"], *(s[model["name"]] for model in report["models"])] for s in report["samples"]]
    return _table(head, rows, text=True)


def _settings(report: Report) -> str:
    pairs = {**report["data"], **report["settings"]}
    return _table(["setting", "value"], [[key, str(value)] for key, value in pairs.items()], text=True)


def _plan_note(report: Report) -> str:
    return f"<p>{_text(report['plan']['summary'])}</p>"


def _quality_and_energy(report: Report) -> Figure:
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3), width_ratios=(1, 1.6), layout="constrained")
    models = report["models"]
    bars = left.bar([m["name"] for m in models], [m["bleu"] for m in models], color=["#9aa5b1", "#7aa5ee", "#2f6fde"])
    left.bar_label(bars, fmt="%.1f")
    left.margins(y=0.15)
    left.set_ylabel("BLEU")
    _stacked_energy(right, report["baselines"])
    return figure


def _stacked_energy(axes: Axes, baselines: Mapping[str, Any]) -> None:
    names = list(baselines)
    compute = [baselines[name]["energy"]["compute_uj"] for name in names]
    memory = [baselines[name]["energy"]["memory_uj"] for name in names]
    axes.barh(names, compute, color="#2f6fde", label="compute")
    axes.barh(names, memory, left=compute, color="#9aa5b1", label="memory traffic")
    axes.invert_yaxis()
    axes.set_xlabel("µJ per sentence pair, 45 nm")
    axes.legend(frameon=False)


def _plan_map(report: Report) -> Figure:
    modules = report["plan"]["modules"]
    stacks = sorted({m["row"] for m in modules})
    roles = list(dict.fromkeys(m["column"] for m in modules))
    figure, axes = plt.subplots(figsize=(1.2 + 0.75 * len(roles), 0.8 + 0.42 * len(stacks)))
    for m in modules:
        x, y = roles.index(m["column"]), stacks.index(m["row"])
        axes.add_patch(plt.Rectangle((x, y), 0.92, 0.86, color=COLOURS[m["kind"]]))
    axes.set_xlim(0, len(roles))
    axes.set_ylim(len(stacks), 0)
    axes.set_xticks([i + 0.46 for i in range(len(roles))], roles, rotation=40, ha="right")
    axes.set_yticks([i + 0.43 for i in range(len(stacks))], stacks)
    kinds = [kind for kind in COLOURS if any(m["kind"] == kind for m in modules)]
    handles = [plt.Rectangle((0, 0), 1, 1, color=COLOURS[kind]) for kind in kinds]
    axes.legend(handles, kinds, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return figure


def _curves(report: Report) -> Figure:
    figure, axes = plt.subplots(figsize=(10, 3))
    start = 0
    for name, points in report["training"].items():
        steps = [start + p["step"] for p in points]
        axes.plot(steps, [p["loss"] for p in points], label=name)
        start = steps[-1] if steps else start
    axes.set_xlabel("step")
    axes.set_ylabel("validation loss")
    axes.legend(frameon=False)
    return figure


def _figure(draw: Callable[[Report], Figure], report: Report) -> str:
    figure = draw(report)
    buffer = io.StringIO()
    # A fixed salt and no date: the same numbers give the same page.
    with plt.rc_context({"svg.hashsalt": "shiftadd", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)
    svg = buffer.getvalue()
    return f"<figure>{svg[svg.index('<svg') :]}</figure>"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], text: bool = False) -> str:
    kind = " class='text'" if text else ""
    top = "".join(f"<th{kind}>{_text(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td{kind}>{_text(c)}</td>" for c in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def _section(title: str, body: str) -> str:
    return f"<section><h2>{_text(title)}</h2>{body}</section>"


def _text(value: object) -> str:
    return html.escape(str(value))
