"""How is a data set of the Hugging Face hub read as pairs?"""

from __future__ import annotations

from typing import Any

from tasks.errors import TaskError, nearest
from tasks.hub import load_hub
from tasks.translation.config import DataConfig
from tasks.translation.files import pairs_from_rows
from tasks.translation.pairs import Pair

_WITHOUT_HUB = (
    'a local file: data.source = "pairs.jsonl" (also .tsv, .csv, .parquet), '
    "or data.source_file and data.target_file; or gettext:<lang> for this machine's catalogs"
)


def read_hub(name: str, config: DataConfig) -> dict[str, list[Pair]]:
    """Load a data set by name through `datasets`.

    Args:
        name: for example `wmt14` or a folder that `datasets` can read.
        config: subset, split names, languages and columns.

    Returns:
        "train", and "validation" and "test" where the config or the data set names them.

    Raises:
        TaskError: not reachable, unknown subset or split, or columns that cannot be told apart.
    """
    loaded = load_hub(name, config.subset, _WITHOUT_HUB)
    wanted = {
        "train": config.train_split,
        "validation": config.validation_split or ("validation" if "validation" in loaded else None),
        "test": config.test_split or ("test" if "test" in loaded else None),
    }
    for split in wanted.values():
        if split is not None and split not in loaded:
            raise TaskError(f"hub:{name} has no split {split!r}{nearest(split, loaded)}")
    return {
        part: list(pairs_from_rows(_rows(loaded[split], f"hub:{name} {split}"), config, f"hub:{name}"))
        for part, split in wanted.items()
        if split is not None
    }


def _rows(split: Any, origin: str) -> Any:
    return ((f"{origin} row {number}", row) for number, row in enumerate(split, 1))
