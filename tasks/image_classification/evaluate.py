"""How good is a model of a run on its held-out images?"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from tasks.config import read_config, write_text
from tasks.image_classification.config import ImageConfig
from tasks.image_classification.data import load_split
from tasks.image_classification.images import ImageSet
from tasks.image_classification.model import class_names, load_model, relabelled
from tasks.image_classification.predict import probabilities
from tasks.image_classification.scores import Scores, per_class, score
from tasks.training.folder import locate_run


def evaluate(
    model: Any, processor: Any, images: ImageSet, *, batch_size: int = 64, progress: bool = True
) -> tuple[Scores, Tensor]:
    """Classify images and count what is right.

    Args:
        model: an image classifier.
        processor: its image processor.
        images: with the model's class numbers.
        batch_size: images in one forward pass.
        progress: show a bar.

    Returns:
        Scores, and the probabilities `[N, classes]`.
    """
    start = time.perf_counter()
    shares = probabilities(model, processor, images, batch_size=batch_size, progress=progress)
    return score(shares, images.labels, time.perf_counter() - start), shares


def evaluate_run(
    path: str | Path,
    *,
    split: str = "test",
    model: str = "model",
    progress: bool = True,
    report: bool = True,
) -> Scores:
    """Score a model of a run folder and write the result and every prediction beside it.

    Args:
        path: a run folder, or a model folder inside one.
        split: "test" or "validation".
        model: which model of the run: "model" or "packed".
        progress: show a bar.
        report: also write `report.html`.

    Returns:
        The scores; `results/<model>-<split>.json` also holds them class by class, and `.tsv` every prediction.

    Raises:
        TaskError: not a run folder, no such model in it, or images that have changed since the training.
    """
    run, name = locate_run(path, model)
    config = read_config(ImageConfig, run / "config.toml")
    found, classes = load_split(config.data, run / "data", split)
    network, processor = load_model(run / name)
    images = relabelled(found, classes, network)
    scores, shares = evaluate(network, processor, images, batch_size=config.train.batch_size, progress=progress)
    save_scores(run / "results" / f"{name}-{split}", scores, images, shares, class_names(network))
    if report:
        from tasks.image_classification.report import write_report

        write_report(run, network, processor, images, shares)
    return scores


def save_scores(stem: Path, scores: Scores, images: ImageSet, shares: Tensor, classes: Sequence[str]) -> None:
    """Write `<stem>.json` (scores, per class) and `<stem>.tsv` (image, class, prediction, probability)."""
    best = shares.max(-1)
    lines = [
        f"{name}\t{classes[label]}\t{classes[guess]}\t{share:.4f}\n"
        for name, label, guess, share in zip(
            images.names, images.labels, best.indices.tolist(), best.values.tolist(), strict=True
        )
    ]
    text = json.dumps(
        {**asdict(scores), "classes": per_class(shares, images.labels, classes)}, indent=2, ensure_ascii=False
    )
    write_text(stem.with_name(stem.name + ".tsv"), "".join(lines))
    write_text(stem.with_name(stem.name + ".json"), text + "\n")
