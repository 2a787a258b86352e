"""How is a data set of the Hugging Face hub read, and what is said when there is no network?"""

from __future__ import annotations

from typing import Any

from tasks.errors import TaskError, nearest
from tasks.translation.config import DataConfig
from tasks.translation.files import pairs_from_rows
from tasks.translation.pairs import Pair


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
    loaded = _load(name, config.subset)
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


def _load(name: str, subset: str | None) -> Any:
    import datasets

    try:
        return datasets.load_dataset(name, subset)
    except ValueError as error:  # an unknown or missing subset; the message of `datasets` lists them
        raise TaskError(f"hub:{name}: {error}") from error
    except (OSError, RuntimeError) as error:  # every network and "not found" error derives from these
        raise TaskError(
            f"hub:{name} could not be loaded ({type(error).__name__}: {str(error).splitlines()[0]}).\n"
            'Without a network, give a local file: data.source = "pairs.jsonl" (also .tsv, .csv, .parquet), '
            "or data.source_file and data.target_file; or gettext:<lang> for this machine's catalogs"
        ) from error


def _rows(split: Any, origin: str) -> Any:
    return ((f"{origin} row {number}", row) for number, row in enumerate(split, 1))
