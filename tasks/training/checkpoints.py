"""Which checkpoints of a training are complete, and what is their average?"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks.errors import TaskError


def checkpoints(folder: str | Path) -> list[Path]:
    """Complete checkpoints of a training, oldest first."""
    found = [path for path in Path(folder).glob("checkpoint-*") if (path / "trainer_state.json").is_file()]
    numbered = [(int(match.group()), path) for path in found if (match := re.search(r"\d+$", path.name))]
    return [path for _, path in sorted(numbered)]


def average_checkpoints(folders: Sequence[str | Path]) -> dict[str, Any]:
    """Mean of the floating-point tensors of several checkpoints; others are taken from the last.

    Args:
        folders: checkpoint folders of one model, each with a `model.safetensors`.

    Returns:
        Name -> tensor, in the dtype of the checkpoints; the sum runs in float64.

    Raises:
        TaskError: no checkpoint, or checkpoints of different models.
    """
    import torch
    from safetensors.torch import load_file

    if not folders:
        raise TaskError("no checkpoints to average")
    loaded = [load_file(str(Path(folder) / "model.safetensors")) for folder in folders]
    last = loaded[-1]
    for folder, weights in zip(folders, loaded, strict=True):
        if {name: value.shape for name, value in weights.items()} != {n: v.shape for n, v in last.items()}:
            raise TaskError(f"{folder} and {folders[-1]} hold different models and cannot be averaged")
    return {
        name: torch.stack([weights[name].double() for weights in loaded]).mean(0).to(value.dtype)
        if value.is_floating_point()
        else value
        for name, value in last.items()
    }
