"""How are held-out images cut from the training images?  From each class its share, always the same ones."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence


def cut(labels: Sequence[int], fractions: Sequence[float], seed: int) -> list[list[int]]:
    """Indices of each held-out part and, first, of the rest.

    From each class, `round(fraction * images)` images go to each part; at least one stays in the rest.

    Args:
        labels: class numbers.
        fractions: share of each held-out part.
        seed: of the choice.

    Returns:
        [rest, part 1, part 2, ...], each in ascending order.

    Examples:
        >>> [len(part) for part in cut([0] * 10 + [1] * 10, (0.1, 0.2), seed=0)]
        [14, 2, 4]
    """
    parts: list[list[int]] = [[] for _ in range(len(fractions) + 1)]
    for indices in _shuffled(labels, seed):
        left = len(indices) - 1
        for part, fraction in zip(parts[1:], fractions, strict=True):
            size = min(left, round(fraction * len(indices)))
            part += indices[left - size + 1 : left + 1]
            left -= size
        parts[0] += indices[: left + 1]
    return [sorted(part) for part in parts]


def limit(labels: Sequence[int], size: int | None, seed: int) -> list[int]:
    """Indices of at most `size` images, from each class its share.

    Examples:
        >>> labels = [0, 0, 0, 1, 1, 1]
        >>> [labels[index] for index in limit(labels, 2, seed=0)]
        [0, 1]
    """
    if size is None or size >= len(labels):
        return list(range(len(labels)))
    # The k-th image of a class of n has the rank (k + 1/2) / n: the lowest ranks hold each class's share.
    ranked = [
        ((k + 0.5) / len(indices), index) for indices in _shuffled(labels, seed) for k, index in enumerate(indices)
    ]
    return sorted(index for _, index in sorted(ranked)[:size])


def _shuffled(labels: Sequence[int], seed: int) -> list[list[int]]:
    groups: dict[int, list[int]] = defaultdict(list)
    for index, label in enumerate(labels):
        groups[label].append(index)
    for label, indices in groups.items():
        random.Random(f"{seed}/{label}").shuffle(indices)
    return [groups[label] for label in sorted(groups)]
