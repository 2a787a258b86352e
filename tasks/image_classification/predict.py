"""Which classes does a model see in images?  Probabilities, for scoring and for a person's own files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tasks.errors import TaskError
from tasks.image_classification.batches import prepare
from tasks.image_classification.images import ImageSet
from tasks.image_classification.model import class_names

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")


class Prediction(NamedTuple):
    """What the model says about one file; `error` instead if it could not be read."""

    path: Path
    classes: tuple[tuple[str, float], ...] = ()
    error: str = ""

    def __str__(self) -> str:
        if self.error:
            return f"error: {self.error}"
        return f"{self.path}\t" + "\t".join(f"{name} {share:.1%}" for name, share in self.classes)


def probabilities(
    model: Any, processor: Any, images: ImageSet, *, batch_size: int = 64, progress: bool = False
) -> Tensor:
    """The model's probabilities `[N, classes]`.

    Args:
        model: an image classifier.
        processor: its image processor.
        images: N images.
        batch_size: images in one forward pass.
        progress: show a bar.

    Raises:
        TaskError: an image cannot be read.
    """
    from tqdm.auto import tqdm

    starts = tqdm(range(0, len(images), batch_size), desc="images", unit="batch", disable=not progress, leave=False)
    parts = []
    model.eval()
    for start in starts:
        rows = range(start, min(start + batch_size, len(images)))
        pixels = prepare(processor, [images.image(i) for i in rows])
        with torch.inference_mode():
            parts.append(model(pixel_values=pixels.to(model.device)).logits.float().softmax(-1).cpu())
    return torch.cat(parts)


def predict(model: Any, processor: Any, paths: Iterable[Path], *, top: int = 3) -> Iterator[Prediction]:
    """The likeliest classes of each file; one that cannot be read gives an error and does not stop the others.

    Args:
        model: an image classifier.
        processor: its image processor.
        paths: image files.
        top: how many classes.
    """
    names = class_names(model)
    for path in paths:
        try:
            shares = probabilities(model, processor, single_image(path))[0]
        except TaskError as error:
            yield Prediction(path, error=str(error))
            continue
        best = shares.topk(min(top, len(names)))
        found = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        yield Prediction(path, tuple((names[number], share) for number, share in found))


def single_image(path: Path) -> ImageSet:
    """A set of one file, whose class nobody knows."""
    from PIL import Image

    return ImageSet([str(path)], [0], lambda _: Image.open(path))


def image_files(paths: Iterable[Path]) -> list[Path]:
    """The files as given, and of each folder the images in it, sorted.

    Raises:
        TaskError: a folder holds no images.
    """
    files: list[Path] = []
    for path in paths:
        inside = sorted(f for f in path.rglob("*") if f.suffix.lower() in SUFFIXES) if path.is_dir() else [path]
        if not inside:
            raise TaskError(f"no images in {path}; looked for {', '.join(SUFFIXES)}")
        files += inside
    return files
