"""Which keys does an image classification config have, and what do they mean?  One dataclass per TOML table."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from tasks.errors import TaskError
from tasks.search.config import SearchConfig
from tasks.training import config as training


@dataclass(frozen=True)
class DataConfig:
    """`[data]`: where the images come from and how they are cut.

    Args:
        source: `digits` (1,797 handwritten digits of 8 x 8 pixels, from scikit-learn), `imagefolder:PATH` (a
            folder per class, or train/, validation/, test/ with a folder per class), or `hub:NAME`.
        image_column, label_column: guessed where only one reading is possible.
        subset: configuration name of a hub data set.
        train_split, validation_split, test_split: split names; held-out ones are found by their usual names.
        validation_fraction, test_fraction: part of each class that is cut from the training images where the
            source holds no such split.
        split_seed: of that cut. It is not the seed of the training, so that runs of several seeds are scored on the
            same images.
        max_train, max_validation, max_test: take at most so many images, of each class its share.
    """

    source: str = "digits"
    image_column: str | None = None
    label_column: str | None = None
    subset: str | None = None
    train_split: str = "train"
    validation_split: str | None = None
    test_split: str | None = None
    validation_fraction: float = 0.1
    test_fraction: float = 0.2
    split_seed: int = 0
    max_train: int | None = None
    max_validation: int | None = None
    max_test: int | None = None

    def __post_init__(self) -> None:
        if not (0 < self.validation_fraction < 1 and 0 < self.test_fraction < 1) or self.held_out >= 1:
            raise TaskError("data.validation_fraction and data.test_fraction must be positive and make less than 1")
        for name in ("max_train", "max_validation", "max_test"):
            limit = getattr(self, name)
            if limit is not None and limit < 1:
                raise TaskError(f"data.{name} must be at least 1")

    @property
    def held_out(self) -> float:
        """Both fractions together."""
        return self.validation_fraction + self.test_fraction


@dataclass(frozen=True)
class AugmentConfig:
    """`[augment]`: how training images are varied; the validation and test images are left as they are.

    Args:
        translate: move by up to so many pixels, each way.
        rotate: turn by up to so many degrees, each way.
        scale: enlarge or shrink by up to this part, each way: 0.1 is 0.9 to 1.1.
        flip: mirror every other image; not for digits or letters.
        erase: probability that a rectangle of a tenth to a quarter of the image is blanked.
        mixup: parameter of the Beta distribution that two images are mixed by; 0 mixes none.
    """

    translate: float = 0.0
    rotate: float = 0.0
    scale: float = 0.0
    flip: bool = False
    erase: float = 0.0
    mixup: float = 0.0

    def __post_init__(self) -> None:
        if min(self.translate, self.rotate, self.scale, self.erase, self.mixup) < 0:
            raise TaskError("augment: translate, rotate, scale, erase and mixup must not be negative")
        if self.scale >= 1 or self.erase > 1:
            raise TaskError("augment.scale must be below 1, augment.erase at most 1")


@dataclass(frozen=True)
class ModelConfig:
    """`[model]`: a Vision Transformer of this size, or `pretrained`: any image classifier, folder or hub name.

    Args:
        pretrained: its head is kept where the class names are the same, and made anew where they are not.
        hidden, layers, heads, ffn: width, depth, attention heads, inner width of the feed-forward layers.
        patch: side of a patch in pixels.
        image_size: side of the square image in pixels; none takes it from the data, where all images agree.
        dropout, attention_dropout: while training.
        activation: of the feed-forward layers.
        init_std: deviation of all initial weights. ViT's own 0.02 is for widths of 768; a narrow network starts
            with attention that looks everywhere alike, and takes long to leave it.
    """

    pretrained: str | None = None
    hidden: int = 64
    layers: int = 4
    heads: int = 4
    ffn: int = 128
    patch: int = 2
    image_size: int | None = None
    dropout: float = 0.0
    attention_dropout: float = 0.0
    activation: str = "gelu"
    init_std: float = 0.02

    def __post_init__(self) -> None:
        if min(self.hidden, self.layers, self.heads, self.ffn, self.patch) < 1:
            raise TaskError("model: hidden, layers, heads, ffn and patch must be positive")
        if self.hidden % self.heads:
            raise TaskError(f"model.hidden ({self.hidden}) must be a multiple of model.heads ({self.heads})")
        if self.image_size is not None and (self.image_size < 1 or self.image_size % self.patch):
            raise TaskError(f"model.image_size ({self.image_size}) must be a multiple of model.patch ({self.patch})")


@dataclass(frozen=True)
class TrainConfig(training.TrainConfig):
    """`[train]`: what every task has, and the number of images in a batch."""

    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    batch_size: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size < 1:
            raise TaskError("train.batch_size must be positive")


@dataclass(frozen=True)
class ImageConfig:
    """The whole config; `run_dir` is where everything about the run is written."""

    task: Literal["image_classification"] = "image_classification"
    run_dir: str = "runs/image_classification"
    seed: int = 42
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    plan: training.PlanConfig | None = None
    search: SearchConfig | None = None

    def __post_init__(self) -> None:
        if self.augment.mixup and self.plan is not None and self.plan.distill is not None:
            raise TaskError("augment.mixup and plan.distill exclude each other: the teacher needs one class per image")
