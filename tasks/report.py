"""The demo's report as one self-contained HTML page: tables, plots as inline SVG, sample translations.

Everything on the page comes from the report dictionary, the same that is written as report.json, so that page and
file cannot disagree.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from shiftadd_transformers.cost.report import quantity
from tasks.drawing import loss_curves, plan_map
from tasks.pages import page, picture, plt, section, table, text

Report = Mapping[str, Any]


def render(report: Report) -> str:
    """The whole page.

    Args:
        report: What report.json holds.

    Returns:
        HTML text without any reference to another file.
    """
    sections = [
        _headline(report),
        section("Quality, size, energy", _models_table(report) + picture(_quality_and_energy(report))),
        section("Beside dense baselines", _baseline_table(report)),
        section("Which layer computes how", picture(plan_map(report["plan"]["modules"])) + _plan_note(report)),
        section("What a search finds", _search(report)),
        section("Training", picture(loss_curves(report["training"]))),
        section("Translations", _samples(report)),
        section("Data and settings", _settings(report)),
    ]
    return page(report["title"], sections)


def _headline(report: Report) -> str:
    dense, packed = report["models"][0], report["models"][-1]
    kept = packed["bleu"] / dense["bleu"] if dense["bleu"] else 0.0
    multiplications = 1 - packed["operations"]["multiply"] / dense["operations"]["multiply"]
    energy = {name: row["energy"]["total_uj"] for name, row in report["baselines"].items()}
    return (
        f"<h1>{text(report['title'])}</h1><p>The packed shift-add model reaches <b>{kept:.0%}</b> of the dense "
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
    notes = "".join(f"<div class='signature'>{text(s)}</div>" for s in sorted(signatures))
    return table(head, rows) + notes + f"<p class='signature'>{text(report['cost_input'])}</p>"


def _baseline_table(report: Report) -> str:
    head = ["variant", "multiply", "add", "shift", "look-up", "weights", "compute", "memory", "total"]
    rows = [
        [name]
        + [quantity(row["operations"][kind]) for kind in ("multiply", "add", "shift", "lookup")]
        + [f"{row['weight_bytes'] / 1e6:.2f} MB"]
        + [f"{row['energy'][part]:.2f} µJ" for part in ("compute_uj", "memory_uj", "total_uj")]
        for name, row in report["baselines"].items()
    ]
    return table(head, rows)


def _search(report: Report) -> str:
    names = list(report["search"][0]["scores"])
    rows = [
        [f"#{i}", *(f"{found['scores'][name]:.4g}" for name in names), found["plan"]]
        for i, found in enumerate(report["search"])
    ]
    note = "Plans for the dense model, judged right after the conversion: search/report.html has the whole search, "
    note += "and shiftadd train --plan search/front.json#0 fine-tunes one."
    return table(["", *names, "plan"], rows, words=True) + f"<p>{note}</p>"


def _samples(report: Report) -> str:
    head = ["source", "reference", *(model["name"] for model in report["models"])]
    rows = [[s["source"], s["reference"], *(s[model["name"]] for model in report["models"])] for s in report["samples"]]
    return table(head, rows, words=True)


def _settings(report: Report) -> str:
    pairs = {**report["data"], **report["settings"]}
    return table(["setting", "value"], [[key, str(value)] for key, value in pairs.items()], words=True)


def _plan_note(report: Report) -> str:
    return f"<p>{text(report['plan']['summary'])}</p>"


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
