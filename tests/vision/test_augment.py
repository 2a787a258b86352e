"""Augmentation: same shape, same range, the same for the same seed, and what each key does."""

import pytest
import torch

from tasks.config import build
from tasks.errors import TaskError
from tasks.image_classification.augment import augment
from tasks.image_classification.batches import Collator, Example
from tasks.image_classification.config import AugmentConfig, ImageConfig

EVERYTHING = AugmentConfig(translate=1.5, rotate=20, scale=0.2, flip=True, erase=0.5, mixup=0.3)


def batch(count=16, height=8, width=8):
    return torch.rand(count, 3, height, width) * 2 - 1, torch.arange(count) % 10


@pytest.mark.parametrize("size", [(8, 8), (5, 9), (1, 1)])
@pytest.mark.parametrize(
    "config",
    [AugmentConfig(), AugmentConfig(translate=2), AugmentConfig(rotate=30), AugmentConfig(erase=1.0), EVERYTHING],
)
def test_shape_and_range_stay(config, size):
    pixels, labels = batch(16, *size)
    varied, _ = augment(pixels, labels, 10, config, seed=3)
    assert varied.shape == pixels.shape
    assert varied.isfinite().all()
    assert varied.min() >= min(pixels.min(), 0) - 1e-6
    assert varied.max() <= max(pixels.max(), 0) + 1e-6


def test_the_seed_decides():
    pixels, labels = batch()
    first, again, other = (augment(pixels, labels, 10, EVERYTHING, seed) for seed in (1, 1, 2))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


def test_nothing_asked_nothing_changed():
    pixels, labels = batch()
    varied, same = augment(pixels, labels, 10, AugmentConfig(), seed=1)
    assert torch.equal(varied, pixels)
    assert torch.equal(same, labels)


def test_images_move_by_whole_and_part_pixels():
    pixels = torch.zeros(200, 1, 9, 9)
    pixels[:, :, 4, 4] = 1.0
    varied, _ = augment(pixels, torch.zeros(200, dtype=torch.long), 2, AugmentConfig(translate=2), seed=0)
    mass = varied.sum((1, 2, 3))
    assert mass.allclose(torch.ones(200), atol=1e-4)  # nothing leaves a frame that is wide enough
    places = torch.arange(9.0)
    centre = (varied.sum((1, 2)) * places).sum(-1) - 4
    assert centre.abs().max() <= 2 + 1e-4
    assert centre.abs().max() > 1.8
    assert centre.mean().abs() < 0.3


def test_turning_keeps_the_centre_and_turns_both_ways():
    pixels = torch.zeros(100, 1, 9, 9)
    pixels[:, :, 4, 8] = 1.0
    pixels[:, :, 4, 4] = 1.0
    varied, _ = augment(pixels, torch.zeros(100, dtype=torch.long), 2, AugmentConfig(rotate=40), seed=0)
    assert varied[:, 0, 4, 4].min() > 0.5
    above, below = varied[:, 0, :4].sum((1, 2)), varied[:, 0, 5:].sum((1, 2))
    assert (above > 0.5).any()
    assert (below > 0.5).any()


def test_about_half_are_mirrored():
    pixels = torch.zeros(200, 1, 4, 4)
    pixels[:, :, :, 0] = 1.0
    varied, _ = augment(pixels, torch.zeros(200, dtype=torch.long), 2, AugmentConfig(flip=True), seed=0)
    assert 60 < varied[:, 0, 0, 3].sum() < 140


def test_mixed_labels_are_probabilities_of_the_mixed_images():
    pixels = torch.nn.functional.one_hot(torch.arange(4), 4).float()[:, None, None, :]
    varied, labels = augment(pixels, torch.arange(4), 4, AugmentConfig(mixup=1.0), seed=5)
    assert torch.allclose(varied[:, 0, 0], labels)
    assert torch.allclose(labels.sum(-1), torch.ones(4))


def test_only_training_images_are_varied_and_every_epoch_differs():
    collate = Collator(10, AugmentConfig(translate=2))
    pixels, labels = batch(4)

    def collated(draw):
        return collate([Example(pixels[i], int(labels[i]), draw and (*draw, i)) for i in range(4)])

    assert torch.equal(collated(None)["pixel_values"], pixels)
    assert torch.equal(collated((0, 0))["pixel_values"], collated((0, 0))["pixel_values"])
    assert not torch.equal(collated((0, 0))["pixel_values"], collated((0, 1))["pixel_values"])


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"augment": {"rotate": -1}}, "must not be negative"),
        ({"augment": {"erase": 1.5}}, "augment.erase at most 1"),
        ({"augment": {"mixup": 0.2}, "plan": {"rules": [{"op": "shift"}], "distill": {}}}, "exclude each other"),
        ({"model": {"hidden": 10, "heads": 4}}, "multiple of model.heads"),
        ({"model": {"image_size": 9, "patch": 2}}, "multiple of model.patch"),
        ({"data": {"test_fraction": 0.95}}, "make less than 1"),
        ({"data": {"max_test": 0}}, "data.max_test must be at least 1"),
        ({"train": {"batch_size": 0}}, "batch_size must be positive"),
    ],
)
def test_values_that_cannot_be(tables, message):
    with pytest.raises(TaskError, match=message):
        build(ImageConfig, tables)
