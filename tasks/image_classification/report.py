"""What does a run say about itself?  One HTML page, written from what is in its folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from shiftadd_transformers.cost.report import joules, quantity
from tasks.config import write_text
from tasks.drawing import loss_curves, plan_cells, plan_map, validation_points
from tasks.image_classification.cost import cost_of
from tasks.image_classification.images import ImageSet
from tasks.image_classification.model import class_names
from tasks.image_classification.pictures import LOOKED_AT, attention_sheet, choose_samples, sample_sheet
from tasks.pages import page, picture, section, table, text
from tasks.training.fitting import read_history


def write_report(run: Path, model: Any, processor: Any, images: ImageSet, shares: Tensor) -> Path:
    """Write `report.html` of a run whose test images have just been classified.

    Args:
        run: the run folder; all results in it are on the page.
        model: the model that was scored; its layers and its attention are drawn.
        processor: its image processor.
        images: the images, with the model's class numbers.
        shares: the model's probabilities `[N, classes]`.
    """
    classes = class_names(model)
    samples = choose_samples(shares, images.labels)
    data = json.loads((run / "data" / "report.json").read_text(encoding="utf-8"))
    sections = [
        f"<h1>{text(run.name)}</h1><p>{text(data['source'])}, {len(classes)} classes</p>",
        section("Accuracy", _scores(run) + _hardest(run)),
        section("Operations and energy of one image", _costs(cost_of(model, processor))),
        section("Training", _training(run)),
        section("Images", picture(sample_sheet(images, samples, shares, classes), "The surest mistakes come first.")),
    ]
    if cells := plan_cells(model):
        sections.insert(3, section("Which layer computes how", picture(plan_map(cells))))
    looked_at = attention_sheet(model, processor, images, samples[-LOOKED_AT:])
    if looked_at is not None:
        caption = "Attention of the class token to the patches, mean over heads; bright is much."
        sections.append(section("Where it looks", picture(looked_at, caption)))
    write_text(run / "report.html", page(run.name, sections))
    return run / "report.html"


def _results(run: Path) -> dict[str, Mapping[str, Any]]:
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(run.glob("results/*.json"))}


def _scores(run: Path) -> str:
    head = ["model and images", "top-1", "95 % interval", "top-5", "images"]
    rows = [
        [
            name,
            f"{found['top1']:.2%}",
            f"{found['low']:.2%} to {found['high']:.2%}",
            "" if found["top5"] is None else f"{found['top5']:.2%}",
            str(found["images"]),
        ]
        for name, found in _results(run).items()
    ]
    return table(head, rows)


def _hardest(run: Path, count: int = 10) -> str:
    """The classes with the lowest recall in the newest result."""
    newest = max(run.glob("results/*.json"), key=lambda path: path.stat().st_mtime)
    rows = [row for row in json.loads(newest.read_text(encoding="utf-8"))["classes"] if row["images"]]
    worst = sorted(rows, key=lambda row: row["recall"])[:count]
    head = ["class", "images", "recall", "precision", "taken for"]
    cells = [
        [
            row["class"],
            str(row["images"]),
            f"{row['recall']:.1%}",
            "" if row["precision"] is None else f"{row['precision']:.1%}",
            ", ".join(f"{name} ({times})" for name, times in list(row["taken_for"].items())[:3]),
        ]
        for row in worst
    ]
    return f"<p>{text(newest.stem)}, hardest classes:</p>" + table(head, cells)


def _costs(cost: Mapping[str, Any]) -> str:
    kinds = ("multiply", "add", "shift", "lookup")
    energy = cost["energy"]
    head = [*kinds, "weights", "compute", "memory"]
    row = [
        *(quantity(cost["operations"][kind]) for kind in kinds),
        quantity(cost["weight_bytes"], "B"),
        joules(energy["compute_pj"]),
        joules(energy["memory_pj"]),
    ]
    return table(head, [row]) + f"<p class='signature'>{text(energy['table'])}, weights read from memory once</p>"


def _training(run: Path) -> str:
    history = read_history(run / "history.json")
    end = history[-1]
    curve = picture(loss_curves({"validation": validation_points(history)}))
    return curve + f"<p>{end['steps']} steps, {end['minutes']:.1f} minutes, {text(end['weights'])}</p>"
