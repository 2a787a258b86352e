"""Which network is trained, what prepares its images, and how are both read back from a folder?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tasks.errors import TaskError
from tasks.image_classification.config import ModelConfig
from tasks.image_classification.images import ImageSet
from tasks.training.loading import explained, is_converted, load_network

_LOOKED_AT = 200  # images, to learn their size


def build_model(config: ModelConfig, classes: Sequence[str], images: ImageSet) -> tuple[Any, Any]:
    """A fresh Vision Transformer and its image processor.

    Args:
        config: the `[model]` table; its `pretrained` is not looked at here.
        classes: names by number.
        images: give the size of the image where the config does not.

    Returns:
        (`ViTForImageClassification` with random weights, processor)

    Raises:
        TaskError: the images differ in size, or their size is no multiple of the patch.
    """
    from transformers import ViTConfig, ViTForImageClassification

    size = config.image_size or _common_size(images, config.patch)
    vit = ViTConfig(
        hidden_size=config.hidden,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        intermediate_size=config.ffn,
        hidden_act=config.activation,
        hidden_dropout_prob=config.dropout,
        attention_probs_dropout_prob=config.attention_dropout,
        initializer_range=config.init_std,
        image_size=size,
        patch_size=config.patch,
        num_channels=3,
        **_names(classes),
    )
    return ViTForImageClassification(vit), make_processor(size, size)


def load_pretrained(path: str, classes: Sequence[str]) -> tuple[Any, Any, bool]:
    """A trained classifier to start from, with a head for these classes.

    A head is kept if it has the same class names in any order, or as many without names.

    Returns:
        (model, image processor, whether the head was kept)

    Raises:
        TaskError: no image classifier, or a converted one for other classes.
    """
    from transformers import AutoConfig, AutoModelForImageClassification

    with explained("an image classifier", path):
        config = AutoConfig.from_pretrained(path)
        has_head = bool(config.architectures) and "ImageClassification" in config.architectures[0]
        known = [config.id2label[i] for i in range(len(config.id2label))]
        unnamed = known == [f"LABEL_{i}" for i in range(len(known))] and len(known) == len(classes)
        if has_head and (unnamed or sorted(known) == sorted(classes)):
            model, processor = load_model(path)
            if unnamed:
                _rename(model.config, classes)
            return model, processor, True
        if is_converted(path):
            raise TaskError(f"{path} is converted already and knows other classes; start from a dense model instead")
        _rename(config, classes)
        model, info = AutoModelForImageClassification.from_pretrained(
            path, config=config, ignore_mismatched_sizes=True, output_loading_info=True
        )
        heads = _renew_heads(model, len(classes))
        lost = {
            entry if isinstance(entry, str) else entry[0]
            for k in ("missing_keys", "mismatched_keys")
            for entry in info[k]
        }
        if strange := sorted(name for name in lost if name.rpartition(".")[0] not in heads):
            raise TaskError(f"{path} lacks weights of {type(model).__name__}: {', '.join(strange[:5])}")
        return model, load_processor(path, config), False


def load_model(path: str | Path) -> tuple[Any, Any]:
    """A trained classifier and its image processor, dense, latent or packed.

    Args:
        path: a model folder, or the name of an image classifier on the hub.

    Returns:
        (model in evaluation mode, processor)

    Raises:
        TaskError: nothing there, or files that do not belong together.
    """
    from transformers import AutoModelForImageClassification

    with explained("an image classifier", path):
        model = load_network(path, AutoModelForImageClassification)
        return model, load_processor(path, model.config)


def load_processor(path: str | Path, config: Any) -> Any:
    """The image processor beside a model, without torchvision; one for the model's image size if there is none."""
    from transformers import AutoImageProcessor

    if Path(path).is_dir() and not (Path(path) / "preprocessor_config.json").is_file():
        size = config.image_size
        return make_processor(*(size if isinstance(size, list | tuple) else (size, size)))
    return AutoImageProcessor.from_pretrained(str(path), backend="pil")


def make_processor(height: int, width: int) -> Any:
    """Resizes to the model's size and maps 0..255 to -1..1."""
    from transformers import ViTImageProcessorPil

    return ViTImageProcessorPil(size={"height": height, "width": width}, do_convert_rgb=True)


def class_names(model: Any) -> tuple[str, ...]:
    """The classes of a model, by number."""
    return tuple(str(model.config.id2label[i]) for i in range(len(model.config.id2label)))


def relabelled(images: ImageSet, classes: Sequence[str], model: Any) -> ImageSet:
    """The same images with the model's class numbers in the place of the data's.

    Raises:
        TaskError: the model does not know a class.
    """
    numbers = {name: number for number, name in enumerate(class_names(model))}
    if unknown := [name for name in classes if name not in numbers]:
        raise TaskError(f"the model does not know the classes {', '.join(unknown[:5])}")
    return ImageSet(images.names, [numbers[classes[label]] for label in images.labels], images.open)


def _common_size(images: ImageSet, patch: int) -> int:
    sizes = {images.image(i).size for i in range(min(len(images), _LOOKED_AT))}
    side = max(max(size) for size in sizes)
    if len(sizes) > 1 or len(set(next(iter(sizes)))) > 1 or side % patch:
        small, large = min(sizes), max(sizes)
        found = f"{small[0]} x {small[1]}" + (f" to {large[0]} x {large[1]}" if len(sizes) > 1 else "")
        raise TaskError(
            f"the images are {found} pixels; set model.image_size to a multiple of model.patch = {patch}, "
            f"for example {-(-side // patch) * patch}, and they are resized to that square"
        )
    return side


def _names(classes: Sequence[str]) -> dict[str, Any]:
    return {"id2label": dict(enumerate(classes)), "label2id": {name: i for i, name in enumerate(classes)}}


def _rename(config: Any, classes: Sequence[str]) -> None:
    for key, value in _names(classes).items():
        setattr(config, key, value)


def _renew_heads(model: Any, classes: int) -> set[str]:
    """Give every head random weights: one for other classes of the same number would be loaded as it is."""
    heads = {
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and module.out_features == classes
        and not any(part.isdigit() for part in name.split("."))
    }
    for name in heads:
        head = model.get_submodule(name)
        with torch.no_grad():
            head.weight.normal_(std=getattr(model.config, "initializer_range", 0.02))
            head.bias.zero_()
    return heads
