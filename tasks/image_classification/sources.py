"""How are images read from each source: scikit-learn's digits, class folders, or a data set of the hub?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.errors import TaskError, nearest
from tasks.hub import load_hub
from tasks.image_classification.config import DataConfig
from tasks.image_classification.images import ImageSet

SPLIT_NAMES = {"train": ("train", "training"), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}
_IMAGE_NAMES = ("image", "img")
_LABEL_NAMES = ("label", "labels", "fine_label", "class", "target")
_WITHOUT_HUB = 'class folders: data.source = "imagefolder:PATH", or "digits"'

Parts = dict[str, ImageSet]


def read_source(config: DataConfig) -> tuple[Parts, tuple[str, ...]]:
    """Image sets of a source, as far as it is cut already, and the names of the classes.

    Args:
        config: the `[data]` table.

    Returns:
        "train", and "validation" and "test" where the source holds them; class names by number.

    Raises:
        TaskError: anything the user can put right: no such folder, no images, columns that cannot be told apart.
    """
    import datasets

    datasets.disable_progress_bars()
    kind, _, rest = config.source.partition(":")
    if config.source == "digits":
        return read_digits()
    if kind == "imagefolder" and rest:
        return _columns(_load_folder(Path(rest).expanduser()), config)
    if kind == "hub" and rest:
        return _columns(load_hub(rest, config.subset, _WITHOUT_HUB), config)
    raise TaskError(f"data.source = {config.source!r}: expected digits, imagefolder:PATH or hub:NAME")


def read_digits() -> tuple[Parts, tuple[str, ...]]:
    """1,797 handwritten digits, 8 x 8 pixels, 17 grey levels, from 43 writers; no download.

    References:
        Alpaydin and Kaynak, Optical recognition of handwritten digits, UCI repository, 1998 (its test part).
    """
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    found = load_digits()
    pixels = np.round(found.images * (255 / 16)).astype(np.uint8)
    names = [f"digit {i}" for i in range(len(pixels))]
    labels = [int(label) for label in found.target]
    return {"train": ImageSet(names, labels, lambda i: Image.fromarray(pixels[i]))}, tuple("0123456789")


def _load_folder(path: Path) -> Any:
    """A folder of class folders, or of train, validation and test with class folders.

    The splits are named to `datasets`, which would otherwise also find them in file names such as cat_test_1.png.
    """
    import datasets

    if not path.is_dir():
        raise TaskError(f"data.source: no folder at {path}")
    folders = {entry.name.lower(): entry for entry in path.iterdir() if entry.is_dir()}
    parts = {part: next((folders[n] for n in names if n in folders), None) for part, names in SPLIT_NAMES.items()}
    own = {part: folder for part, folder in parts.items() if folder is not None}
    if own and "train" not in own:
        raise TaskError(f"{path} has {', '.join(f.name for f in own.values())} but no train folder")
    files = {part: str(folder / "**") for part, folder in own.items()} or {"train": str(path / "**")}
    try:
        return datasets.load_dataset("imagefolder", data_files=files, drop_labels=False)
    except (datasets.exceptions.DatasetGenerationError, FileNotFoundError, ValueError, IndexError) as error:
        raise TaskError(
            f"{path} holds no images in class folders; expected PATH/<class>/<image> or PATH/train/<class>/<image> "
            f"({type(error).__name__})"
        ) from error


def _columns(loaded: Mapping[str, Any], config: DataConfig) -> tuple[Parts, tuple[str, ...]]:
    """Image sets of the splits that are wanted."""
    import datasets

    splits = _chosen_splits(loaded, config)
    features = loaded[splits["train"]].features
    image, label = choose_columns(features, config)
    classes = _classes(loaded[splits["train"]], label)
    parts = {}
    for part, split in splits.items():
        if None in (labels := loaded[split][label]) or -1 in labels:
            if split not in (config.validation_split, config.test_split) and part != "train":
                continue  # many data sets hide the labels of their test images; another part is cut instead
            raise TaskError(f"{config.source}: images of the split {split!r} have no label")
        rows = loaded[split].cast_column(image, datasets.Image(decode=False))
        parts[part] = ImageSet(_names(rows, image, split), _numbers(rows, label, classes, split), _opener(rows, image))
    return parts, classes


def _chosen_splits(loaded: Mapping[str, Any], config: DataConfig) -> dict[str, str]:
    named = {"train": config.train_split, "validation": config.validation_split, "test": config.test_split}
    found = {}
    for part, split in named.items():
        if split is not None and split not in loaded:
            raise TaskError(f"{config.source} has no split {split!r}{nearest(split, loaded)}")
        usual = split or next((name for name in SPLIT_NAMES[part] if name in loaded), None)
        if usual is not None:
            found[part] = usual
    return found


def choose_columns(features: Mapping[str, Any], config: DataConfig) -> tuple[str, str]:
    """Names of the image and the label column: as configured, else by type, else by usual names.

    Raises:
        TaskError: a configured column is missing, or more than one reading is possible.
    """
    images = [name for name, feature in features.items() if type(feature).__name__ == "Image"]
    labels = [name for name, feature in features.items() if type(feature).__name__ == "ClassLabel"]
    if not labels:
        labels = [name for name in _LABEL_NAMES if name in features]
    return (
        _choose("image", config.image_column, images, _IMAGE_NAMES, features, config.source),
        _choose("label", config.label_column, labels, _LABEL_NAMES, features, config.source),
    )


def _choose(
    what: str, configured: str | None, candidates: list[str], usual: tuple[str, ...], features: Any, source: str
) -> str:
    if configured is not None:
        if configured not in features:
            raise TaskError(f"{source}: no column {configured!r}{nearest(configured, features)}")
        return configured
    named = candidates if len(candidates) == 1 else [name for name in usual if name in candidates]
    if len(named) != 1:
        listing = ", ".join(features) or "none"
        raise TaskError(f"{source}: cannot tell which is the {what} column of: {listing}. Set data.{what}_column")
    return named[0]


def _classes(rows: Any, label: str) -> tuple[str, ...]:
    feature = rows.features[label]
    if hasattr(feature, "names"):
        return tuple(feature.names)
    return tuple(map(str, sorted(set(rows[label]))))


def _numbers(rows: Any, label: str, classes: tuple[str, ...], split: str) -> list[int]:
    values = list(rows[label])
    if hasattr(rows.features[label], "names"):
        return values
    known = {name: number for number, name in enumerate(classes)}
    for value in values:
        if str(value) not in known:
            raise TaskError(f"the {split} images have the label {value!r}, which no training image has")
    return [known[str(value)] for value in values]


def _names(rows: Any, image: str, split: str) -> list[str]:
    cells = rows.select_columns([image])
    return [row[image].get("path") or f"{split} {i}" for i, row in enumerate(cells)]


def _opener(rows: Any, image: str) -> Any:
    def open_row(index: int) -> Any:
        import io

        from PIL import Image

        cell = rows[index][image]
        return Image.open(io.BytesIO(cell["bytes"]) if cell["bytes"] is not None else cell["path"])

    return open_row
