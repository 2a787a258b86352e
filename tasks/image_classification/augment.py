"""How are training images varied?  A batch at a time, by numbers drawn from one seed."""

from __future__ import annotations

import math
import random

import torch
from torch import Tensor
from torch.nn import functional as F

from tasks.image_classification.config import AugmentConfig

ERASED_AREA = (0.1, 0.25)  # of the image


def augment(pixels: Tensor, labels: Tensor, classes: int, config: AugmentConfig, seed: int) -> tuple[Tensor, Tensor]:
    """Move, turn, scale, mirror, blank and mix; no value leaves the range of the batch (blanks are 0).

    Args:
        pixels: `[B, C, H, W]`, normalised so that 0 is a middle grey.
        labels: class numbers `[B]`.
        classes: how many there are.
        config: the `[augment]` table.
        seed: equal seeds vary equal batches alike.

    Returns:
        Pixels of the same shape; labels, as probabilities `[B, classes]` where images are mixed.

    Examples:
        >>> pixels, labels = torch.rand(2, 3, 8, 8), torch.tensor([0, 1])
        >>> varied, _ = augment(pixels, labels, 2, AugmentConfig(translate=1, rotate=10), seed=0)
        >>> varied.shape, bool(varied.max() <= pixels.max())
        (torch.Size([2, 3, 8, 8]), True)
    """
    draw = torch.Generator().manual_seed(seed)
    if config.translate or config.rotate or config.scale:
        pixels = _moved(pixels, config, draw)
    if config.flip:
        mirrored = torch.rand(len(pixels), generator=draw) < 0.5
        pixels = torch.where(mirrored[:, None, None, None], pixels.flip(-1), pixels)
    if config.erase:
        pixels = _blanked(pixels, config.erase, draw)
    if config.mixup:
        return _mixed(pixels, labels, classes, random.Random(seed).betavariate(config.mixup, config.mixup), draw)
    return pixels, labels


def _moved(pixels: Tensor, config: AugmentConfig, draw: torch.Generator) -> Tensor:
    """One affine map per image; beyond the edge its last pixels are repeated."""
    count, _, height, width = pixels.shape
    # The map takes places of the result to places of the source, both in units of half the image.
    angle, size, right, down = (2 * torch.rand(4, count, generator=draw) - 1).unbind()
    angle, size = angle * math.radians(config.rotate), 1 / (1 + size * config.scale)
    rows = [
        [angle.cos() * size, -angle.sin() * size * height / width, right * 2 * config.translate / width],
        [angle.sin() * size * width / height, angle.cos() * size, down * 2 * config.translate / height],
    ]
    theta = torch.stack([torch.stack(row, dim=-1) for row in rows], dim=1)
    grid = F.affine_grid(theta, list(pixels.shape), align_corners=False)
    return F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)


def _blanked(pixels: Tensor, probability: float, draw: torch.Generator) -> Tensor:
    """Set a square-like rectangle to 0 in some of the images."""
    count, _, height, width = pixels.shape
    chosen, area, top, left = torch.rand(4, count, 1, generator=draw).unbind()
    side = (ERASED_AREA[0] + area * (ERASED_AREA[1] - ERASED_AREA[0])).sqrt()
    inside = [
        (places >= start * (1 - side)) & (places < start * (1 - side) + side)
        for start, places in ((top, torch.arange(height) / height), (left, torch.arange(width) / width))
    ]
    hole = inside[0][:, :, None] & inside[1][:, None, :] & (chosen < probability)[:, :, None]
    return pixels.masked_fill(hole[:, None], 0.0)


def _mixed(pixels: Tensor, labels: Tensor, classes: int, part: float, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Each image with another one of the batch, in one proportion.

    References:
        Zhang et al., mixup, ICLR 2018, eq. 1. Differs: one proportion per batch, as in the released code.
    """
    other = torch.randperm(len(pixels), generator=draw)
    one_hot = F.one_hot(labels, classes).to(pixels.dtype)
    return torch.lerp(pixels[other], pixels, part), torch.lerp(one_hot[other], one_hot, part)
