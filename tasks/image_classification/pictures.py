"""What do the images of a report show?  What the model saw in them, and where it looked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from tasks.image_classification.batches import prepare
from tasks.image_classification.images import ImageSet
from tasks.pages import plt

SAMPLES, LOOKED_AT, LAYERS = 18, 4, 4
_PER_LINE = 9


def choose_samples(shares: Tensor, labels: Sequence[int], count: int = SAMPLES) -> list[int]:
    """Which images to show: the surest mistakes first, at most half of them, then the first ones that are right."""
    right = shares.argmax(-1) == torch.tensor(labels)
    sure = shares.max(-1).values
    wrong = sorted((~right).nonzero().flatten().tolist(), key=lambda i: -float(sure[i]))[: count // 2]
    return [*wrong, *right.nonzero().flatten().tolist()[: count - len(wrong)]]


def sample_sheet(images: ImageSet, chosen: Sequence[int], shares: Tensor, classes: Sequence[str]) -> Figure:
    """Images with the likeliest class under each; mistakes in red, with the right class."""
    lines = -(-len(chosen) // _PER_LINE)
    figure, axes = plt.subplots(lines, _PER_LINE, figsize=(10, 1.5 * lines), squeeze=False, layout="constrained")
    for place in axes.flat:
        place.axis("off")
    for place, index in zip(axes.flat, chosen, strict=False):
        guess, label = int(shares[index].argmax()), images.labels[index]
        place.imshow(images.image(index))
        words = f"{classes[guess]} {float(shares[index, guess]):.0%}"
        if guess != label:
            words += f"\nis {classes[label]}"
        place.set_title(words, fontsize=8, color="black" if guess == label else "#c22")
    return figure


def attention_sheet(model: Any, processor: Any, images: ImageSet, chosen: Sequence[int]) -> Figure | None:
    """Where a few images are looked at, layer by layer; None for a model whose attention has no grid of patches.

    A row is an image; its maps are the attention of the class token (or the mean over all patches where there is
    none), averaged over heads.
    """
    from shiftadd_transformers import hf

    pixels = prepare(processor, [images.image(i) for i in chosen])
    try:
        weights = hf.attention_maps(model, pixel_values=pixels)
    except ValueError:  # a model that computes attention by itself shows none
        return None
    grids = {name: patch_grid(maps, len(chosen)) for name, maps in weights.items()}
    found = {name: grid for name, grid in grids.items() if grid is not None}
    if not found:
        return None
    shown = _spread(found, LAYERS)
    figure, axes = plt.subplots(
        len(chosen), 1 + len(shown), figsize=(1.6 * (1 + len(shown)), 1.6 * len(chosen)), squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for line, index in zip(axes, chosen, strict=True):
        for place in line:
            place.axis("off")
        line[0].imshow(images.image(index))
    for column, (name, grid) in enumerate(shown.items(), 1):
        axes[0][column].set_title(_layer_name(name), fontsize=8)
        for line, one in zip(axes, grid, strict=True):
            line[column].imshow(one.numpy(), cmap="magma")
    return figure


def patch_grid(weights: Tensor, images: int) -> Tensor | None:
    """Attention `[B, H, T, S]` as one square map per image `[B, side, side]`; None where the tokens are no square.

    Examples:
        >>> patch_grid(torch.ones(2, 3, 17, 17), images=2).shape
        torch.Size([2, 4, 4])
    """
    if weights.ndim != 4 or weights.shape[0] != images or weights.shape[2] != weights.shape[3]:
        return None
    tokens = weights.shape[3]
    for special in (1, 2, 0, 5):  # class token; DeiT's second one; none; DINOv2's registers
        side = math.isqrt(max(0, tokens - special))
        if side > 1 and side * side == tokens - special:
            rows = weights[:, :, :1] if special else weights
            return rows.float().mean((1, 2))[:, special:].reshape(images, side, side)
    return None


def _spread(maps: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    """Some layers, evenly spread from the first to the last."""
    names = list(maps)
    if len(names) > count:
        names = [names[round(i * (len(names) - 1) / (count - 1))] for i in range(count)]
    return {name: maps[name] for name in names}


def _layer_name(name: str) -> str:
    numbers = [part for part in name.split(".") if part.isdigit()]
    return f"layer {'.'.join(numbers)}" if numbers else name
