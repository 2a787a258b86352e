"""From a `[data]` table to three image sets: the one door to every source."""

from __future__ import annotations

import json
from pathlib import Path

from tasks.config import write_text
from tasks.errors import TaskError
from tasks.image_classification.config import DataConfig
from tasks.image_classification.images import ImageCorpus, ImageSet
from tasks.image_classification.sources import read_source
from tasks.image_classification.split import cut, limit


def load_images(config: DataConfig) -> ImageCorpus:
    """Read a source, cut what it does not hold, and check that a classifier can be trained on it.

    Raises:
        TaskError: anything the user can put right: no images, one class only, a part that stays empty.
    """
    parts, classes = read_source(config)
    if len(classes) < 2:
        raise TaskError(
            f"{config.source} has one class only ({', '.join(classes) or 'none'}); a classifier needs two: for "
            "imagefolder:PATH a folder for each"
        )
    missing = {"validation": config.validation_fraction, "test": config.test_fraction}
    missing = {name: fraction for name, fraction in missing.items() if name not in parts}
    train = parts["train"]
    for name, indices in zip(
        ("train", *missing), cut(train.labels, tuple(missing.values()), config.split_seed), strict=True
    ):
        parts[name] = train.select(indices)
    for name, size in (("train", config.max_train), ("validation", config.max_validation), ("test", config.max_test)):
        parts[name] = parts[name].select(limit(parts[name].labels, size, config.split_seed))
    _check(parts, classes, config)
    return ImageCorpus(parts["train"], parts["validation"], parts["test"], classes, config.source)


def save_summary(corpus: ImageCorpus, folder: str | Path) -> None:
    """Write what the data are, so that a later evaluation can tell whether they are still the same."""
    write_text(Path(folder) / "report.json", json.dumps(corpus.summary(), indent=2, ensure_ascii=False) + "\n")


def load_split(config: DataConfig, folder: str | Path, name: str) -> tuple[ImageSet, tuple[str, ...]]:
    """A part of the data of a run, and its class names.

    Raises:
        TaskError: the source has changed since the training.
    """
    summary = json.loads((Path(folder) / "report.json").read_text(encoding="utf-8"))
    corpus = load_images(config)
    images: ImageSet = getattr(corpus, name)
    if images.digest() != summary[name]["digest"] or list(corpus.classes) != summary["classes"]:
        raise TaskError(
            f"the {name} images of {config.source} are not those of the training any more "
            f"({summary[name]['images']} then, {len(images)} now); restore them, or train again"
        )
    return images, corpus.classes


def _check(parts: dict[str, ImageSet], classes: tuple[str, ...], config: DataConfig) -> None:
    for name, images in parts.items():
        if not len(images):
            raise TaskError(
                f"{config.source}: no {name} images are left; give it more, or raise data.{name}_fraction"
                if name != "train"
                else f"{config.source} holds no training images"
            )
    trained = set(parts["train"].labels)
    for name in ("validation", "test"):
        if unknown := sorted(set(parts[name].labels) - trained):
            names = ", ".join(classes[label] for label in unknown[:5])
            raise TaskError(f"no training image has the label {names}, which {name} images have")
