"""Makers of test data: class folders of coloured noise, tiny configs and architectures, and a Ctrl-C at a step."""

import signal

import numpy as np
from PIL import Image
from transformers import (
    DeiTConfig,
    DeiTForImageClassificationWithTeacher,
    Dinov2Config,
    Dinov2ForImageClassification,
    SwinConfig,
    SwinForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from tasks.config import build
from tasks.image_classification.config import ImageConfig
from tasks.training.schedule import EachEpoch

COLOURS = {"blue": (20, 40, 220), "green": (30, 200, 40), "red": (230, 30, 20)}

SMALL = {
    "data": {"max_train": 120, "max_validation": 20, "max_test": 40},
    "model": {"hidden": 16, "layers": 2, "heads": 2, "ffn": 32},
    "train": {"max_steps": 10, "eval_steps": 5, "warmup_steps": 2, "batch_size": 16, "threads": 1},
}

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 8, "patch_size": 2}
SWIN = {"image_size": 8, "patch_size": 1, "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4}
MODELS = {
    "vit": (ViTForImageClassification, ViTConfig, {**SIZES, "intermediate_size": 32}),
    "deit": (DeiTForImageClassificationWithTeacher, DeiTConfig, {**SIZES, "intermediate_size": 32}),
    "dinov2": (Dinov2ForImageClassification, Dinov2Config, {**SIZES, "mlp_ratio": 2}),
    "swin": (SwinForImageClassification, SwinConfig, SWIN),
}
"""Name -> (model class, config class, a tiny size)."""


def small_config(folder, **tables):
    """A tiny config on digits in a run folder; tables are merged into it."""
    merged = {name: {**SMALL.get(name, {}), **tables.pop(name, {})} for name in SMALL}
    return build(ImageConfig, {"run_dir": str(folder), **merged, **tables})


def picture(name, number=0, size=(12, 12)):
    """Noise around a colour."""
    noise = np.random.default_rng(number).integers(-20, 20, (size[1], size[0], 3))
    return Image.fromarray((np.array(COLOURS[name]) + noise).clip(0, 255).astype(np.uint8))


def class_folders(root, count=10, size=(12, 12), classes=tuple(COLOURS)):
    """A folder per class with so many images each."""
    for name in classes:
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(count):
            picture(name, number, size).save(folder / f"{name}_test_{number}.png")  # no split, whatever it says
    return root


def interrupting(step):
    """In the place of `EachEpoch`: also presses Ctrl-C at a step."""

    def make(begin):
        callback = EachEpoch(begin)
        callback.on_step_end = press
        return callback

    def press(args, state, control, **kwargs):
        if state.global_step == step:
            signal.raise_signal(signal.SIGINT)

    return make
