"""What is an image set, and how is one image of it opened?"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.errors import TaskError


@dataclass(frozen=True)
class ImageSet:
    """Images with class numbers; an image is opened when it is asked for.

    Args:
        names: what messages and results call each image.
        labels: class numbers, in the order of `names`.
        open: index -> `PIL.Image.Image` in any mode.
    """

    names: Sequence[str]
    labels: Sequence[int]
    open: Callable[[int], Any]

    def __len__(self) -> int:
        return len(self.names)

    def image(self, index: int) -> Any:
        """One image as RGB.

        Grey images get three equal channels: a pipeline hands over RGB images only, so a model with one channel
        would not run in it. Transparent places become white.

        Raises:
            TaskError: the file is damaged or no image; named in the message.
        """
        try:
            with self.open(index) as opened:
                return as_rgb(opened)
        except (OSError, SyntaxError, ValueError) as error:  # Pillow raises all three on damaged files
            raise TaskError(f"cannot read the image {self.names[index]}: {error}") from error

    def select(self, indices: Sequence[int]) -> ImageSet:
        """The same images, fewer or in another order."""
        chosen = list(indices)
        return ImageSet(
            [self.names[i] for i in chosen], [self.labels[i] for i in chosen], lambda index: self.open(chosen[index])
        )

    def digest(self) -> str:
        """A short text that changes with names, labels or order: whether a later reading gave the same set."""
        rows = "".join(f"{name}\t{label}\n" for name, label in zip(self.names, self.labels, strict=True))
        return hashlib.sha256(rows.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class ImageCorpus:
    """Three image sets and the names of the classes."""

    train: ImageSet
    validation: ImageSet
    test: ImageSet
    classes: tuple[str, ...]
    source: str

    def summary(self) -> dict[str, Any]:
        """What the run folder keeps about the data."""
        return {
            "source": self.source,
            "classes": list(self.classes),
            **{name: self._part(getattr(self, name)) for name in ("train", "validation", "test")},
        }

    def _part(self, images: ImageSet) -> dict[str, Any]:
        counts = Counter(images.labels)
        return {
            "images": len(images),
            "per_class": [counts[i] for i in range(len(self.classes))],
            "digest": images.digest(),
        }

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {len(getattr(self, name))}" for name in ("train", "validation", "test"))
        return f"{self.source}: {len(self.classes)} classes\n  {parts}"


def as_rgb(image: Any) -> Any:
    """Any mode as RGB; transparent places become white, 16-bit grey is scaled.

    Examples:
        >>> from PIL import Image
        >>> as_rgb(Image.new("LA", (1, 1), (0, 0))).getpixel((0, 0))
        (255, 255, 255)
    """
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        # Pillow clips 16-bit values at 255 when it converts them by itself.
        image = image.point(lambda value: value * (1 / 256)).convert("L")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(ground, image)
    return image.convert("RGB")
