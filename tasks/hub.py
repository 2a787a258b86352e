"""How is a data set of the Hugging Face hub loaded, and what is said when it cannot be?"""

from __future__ import annotations

from typing import Any

from tasks.errors import TaskError


def load_hub(name: str, subset: str | None, instead: str) -> Any:
    """All splits of a data set, through `datasets`.

    Args:
        name: for example `wmt14` or a folder that `datasets` can read.
        subset: one of its configurations, where it has several.
        instead: sources that need no network, to follow "Without a network, give".

    Returns:
        the splits by name.

    Raises:
        TaskError: not reachable, no such data set, or an unknown or missing subset.
    """
    import datasets

    try:
        return datasets.load_dataset(name, subset)
    except ValueError as error:  # an unknown or missing subset; the message of `datasets` lists them
        raise TaskError(f"hub:{name}: {error}") from error
    except (OSError, RuntimeError) as error:  # every network and "not found" error derives from these
        raise TaskError(
            f"hub:{name} could not be loaded ({type(error).__name__}: {str(error).splitlines()[0]}).\n"
            f"Without a network, give {instead}"
        ) from error
