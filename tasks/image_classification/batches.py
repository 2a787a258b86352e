"""How do images become batches?  Prepared by the model's own image processor, kept while they are few."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tasks.image_classification.augment import augment
from tasks.image_classification.config import AugmentConfig
from tasks.image_classification.images import ImageSet

KEPT_BYTES = 512 * 2**20  # prepared images in memory; beyond that they are read anew in every epoch


class Example(NamedTuple):
    """One prepared image."""

    pixels: Tensor
    label: int
    draw: tuple[int, int, int] | None  # (seed, epoch, index) of a training image, which the augmentation is drawn by


class PreparedImages(torch.utils.data.Dataset[Example]):
    """Images as the model sees them.

    Args:
        images: the set.
        processor: the model's image processor.
        seed: of the augmentation; None for a set that is not augmented.
    """

    def __init__(self, images: ImageSet, processor: Any, seed: int | None = None) -> None:
        self.images, self.processor, self.seed = images, processor, seed
        self.epoch = 0
        self.kept: dict[int, Tensor] = {}
        self.kept_bytes = 0

    def begin(self, epoch: int) -> None:
        """From now on the augmentation is that of another epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Example:
        draw = None if self.seed is None else (self.seed, self.epoch, index)
        return Example(self._pixels(index), self.images.labels[index], draw)

    def _pixels(self, index: int) -> Tensor:
        if index in self.kept:
            return self.kept[index]
        pixels = prepare(self.processor, [self.images.image(index)])[0]
        if self.kept_bytes + pixels.nbytes <= KEPT_BYTES:
            self.kept[index] = pixels
            self.kept_bytes += pixels.nbytes
        return pixels


class Collator:
    """Stacks prepared images and augments those of the training set.

    Args:
        classes: how many there are.
        config: the `[augment]` table.
    """

    def __init__(self, classes: int, config: AugmentConfig) -> None:
        self.classes, self.config = classes, config

    def __call__(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """One batch: `pixel_values` `[B, C, H, W]`, and `labels` `[B]`, or `[B, classes]` where images are mixed."""
        pixels = torch.stack([example.pixels for example in examples])
        labels = torch.tensor([example.label for example in examples])
        if examples[0].draw is not None:
            seed = zlib.crc32(repr([example.draw for example in examples]).encode())
            pixels, labels = augment(pixels, labels, self.classes, self.config, seed)
        return {"pixel_values": pixels, "labels": labels}


def prepare(processor: Any, images: Sequence[Any]) -> Tensor:
    """RGB images as `[B, C, H, W]`, resized and normalised."""
    return processor(images=list(images), return_tensors="pt")["pixel_values"]
