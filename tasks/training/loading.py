"""How is a model read from a folder, and what is said when that fails?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tasks.errors import TaskError


def load_network(path: str | Path, auto_class: Any = None) -> Any:
    """A model in evaluation mode: dense, latent or packed.

    Args:
        path: a model folder, or a name on the hub.
        auto_class: the class to load; by default the one that was saved.
    """
    from shiftadd_transformers import hf

    if auto_class is None or is_converted(path):
        return hf.load(str(path), auto_class).eval()
    return auto_class.from_pretrained(str(path)).eval()


@contextmanager
def explained(what: str, path: str | Path) -> Iterator[None]:
    """Failures to load become a `TaskError` that says what could not be loaded from where."""
    try:
        yield
    except TaskError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise TaskError(f"cannot load {what} from {path}: {error}") from error
    except Exception as error:  # safetensors raises its own class, derived from Exception, on damaged files
        if type(error).__module__.partition(".")[0] not in ("safetensors", "safetensors_rust"):
            raise
        raise TaskError(f"the weights in {path} are damaged: {error}") from error


def is_converted(path: str | Path) -> bool:
    """Whether a folder holds a model with shift-add operators."""
    config = Path(path) / "config.json"
    return config.is_file() and "quantization_config" in json.loads(config.read_text(encoding="utf-8"))
