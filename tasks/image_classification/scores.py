"""How good are predicted classes?  Accuracy with its interval, per class, and what is taken for what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tasks.errors import TaskError
from tasks.statistics import wilson

TOP = 5


@dataclass(frozen=True)
class Scores:
    """Accuracy on one set of images.

    Args:
        top1, low, high: share of images whose likeliest class is right, and its 95 % Wilson interval.
        top5: share of images whose class is among the five likeliest; None with five classes or fewer.
        images: how many.
        seconds: for all of them.
    """

    top1: float
    low: float
    high: float
    top5: float | None
    images: int
    seconds: float

    def __str__(self) -> str:
        five = "" if self.top5 is None else f"top-5 {self.top5:.2%}\n"
        return (
            f"top-1 {self.top1:.2%} (95 % interval {self.low:.2%} to {self.high:.2%})\n{five}"
            f"{self.images} images, {self.seconds:.1f} s"
        )


def score(shares: Tensor, labels: Sequence[int], seconds: float = 0.0) -> Scores:
    """Compare probabilities `[N, classes]` with N class numbers.

    Examples:
        >>> score(torch.tensor([[0.9, 0.1], [0.2, 0.8]]), [0, 0]).top1
        0.5
    """
    if not len(labels):
        raise TaskError("there are no images to score")
    truth, classes = torch.tensor(labels), shares.shape[1]
    hits = int((shares.argmax(-1) == truth).sum())
    low, high = wilson(hits, len(labels))
    five = (shares.topk(min(TOP, classes)).indices == truth[:, None]).any(-1).float().mean().item()
    return Scores(
        top1=hits / len(labels),
        low=low,
        high=high,
        top5=five if classes > TOP else None,
        images=len(labels),
        seconds=round(seconds, 2),
    )


def per_class(shares: Tensor, labels: Sequence[int], classes: Sequence[str]) -> list[dict[str, Any]]:
    """For each class: images, precision, recall, and which other classes its images were taken for.

    Examples:
        >>> per_class(torch.tensor([[0.9, 0.1], [0.8, 0.2]]), [0, 1], ["cat", "dog"])[1]
        {'class': 'dog', 'images': 1, 'precision': None, 'recall': 0.0, 'taken_for': {'cat': 1}}
    """
    found = shares.argmax(-1).tolist()
    rows = []
    for number, name in enumerate(classes):
        own = [guess for guess, label in zip(found, labels, strict=True) if label == number]
        right, guessed = own.count(number), found.count(number)
        others = {classes[g]: own.count(g) for g in sorted(set(own) - {number}, key=lambda g: -own.count(g))}
        rows.append(
            {
                "class": name,
                "images": len(own),
                "precision": right / guessed if guessed else None,
                "recall": right / len(own) if own else None,
                "taken_for": others,
            }
        )
    return rows
