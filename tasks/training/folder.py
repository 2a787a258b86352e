"""What is in a run folder, and which model of it is meant?

A run folder holds: config.toml (resolved), data/ (what the held-out part is), checkpoints/, model/ and, with a plan,
packed/; history.json and results/ grow as it goes. A plan in stages trains in stages/1, stages/2, ..., which are
laid out likewise.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from tasks.config import write_config
from tasks.errors import TaskError
from tasks.training.checkpoints import checkpoints
from tasks.training.config import TaskConfig

WRITTEN = ("checkpoints", "stages", "model", "packed", "tokenizer", "data", "results")


def prepare_folder(config: TaskConfig, *, resume: bool, overwrite: bool) -> Path:
    """Make the run folder and write the resolved config; never overwrites an earlier run by accident.

    Raises:
        TaskError: a run is there and neither `resume` nor `overwrite` is asked for, or nothing is there to resume.
    """
    folder = Path(config.run_dir)
    if resume and not is_resumable(folder):
        raise TaskError(f"nothing to resume: {folder / 'checkpoints'} holds no checkpoint")
    if not resume and any((folder / name).exists() for name in ("model", "checkpoints", "stages")):
        if not overwrite:
            raise TaskError(f"{folder} already holds a run: use --resume, --overwrite, or another run_dir")
        for name in WRITTEN:
            shutil.rmtree(folder / name, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    write_config(config, folder / "config.toml")
    return folder


def is_resumable(folder: str | Path) -> bool:
    """Whether a training stopped here, with a checkpoint or between two stages."""
    folder = Path(folder)
    places = [folder, *folder.glob("stages/*")]
    return any(checkpoints(place / "checkpoints") for place in places)


def is_finished(folder: str | Path, *, packed: bool = False) -> bool:
    """Whether a training ended here and left its model, and the packed one where that is wanted."""
    names = ("model", "packed") if packed else ("model",)
    return all((Path(folder) / name / "config.json").is_file() for name in names)


def locate_run(path: str | Path, model: str = "model") -> tuple[Path, str]:
    """The run folder and the name of the model in it, from the path of either.

    Raises:
        TaskError: not a run folder, or the model does not exist in it.
    """
    path = Path(path)
    for run, name in ((path, model), (path.parent, path.name)):
        if (run / "config.toml").is_file() and (run / "data").is_dir():
            if (run / name / "config.json").is_file():
                return run, name
            trained = sorted(found.parent.name for found in run.glob("*/config.json"))
            raise TaskError(f"{run} has no model {name!r}; it has: {', '.join(trained) or 'none yet (train first)'}")
    raise TaskError(f"{path} is not a run folder (no config.toml and data/ in it or beside it)")


def model_folder(path: str | Path) -> Path:
    """The model of a run folder; any other path is one already."""
    inside = Path(path) / "model"
    return inside if (inside / "config.json").is_file() else Path(path)
