"""Which task does a config or a run folder belong to?  The top key `task` says; without it, it is translation."""

from __future__ import annotations

import os
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from tasks.config import apply_overrides, build, read_toml
from tasks.errors import TaskError, nearest

TASKS = {"translation": "TranslationConfig", "image_classification": "ImageConfig"}
"""Task -> name of the class of its whole config, in `tasks.<task>.config`."""


def read_task_config(path: str | os.PathLike[str], overrides: Iterable[str] = ()) -> Any:
    """Read the config of any task, apply overrides and check everything.

    Args:
        path: the TOML file.
        overrides: texts such as `train.learning_rate=1e-3`.

    Returns:
        The config; its `task` names the task.

    Raises:
        TaskError: no such file, an unknown task or key, a wrong value.
    """
    tables = read_toml(path)
    name = tables.get("task", "translation")
    if name not in TASKS:
        raise TaskError(f"{path}: there is no task {name!r}{nearest(str(name), TASKS)}")
    kind = getattr(import_module(f"tasks.{name}.config"), TASKS[name])
    return build(kind, apply_overrides(kind, tables, overrides), where=str(path))


def module_of(config: Any, name: str) -> ModuleType:
    """One module of a config's task, such as "train" or "evaluate"; imported only now, as it may need torch."""
    return import_module(f"tasks.{config.task}.{name}")


def run_config(path: str | os.PathLike[str]) -> Any:
    """The config of a run, from its folder or that of a model inside.

    Raises:
        TaskError: there is no run.
    """
    for folder in (Path(path), Path(path).parent):
        if (folder / "config.toml").is_file():
            return read_task_config(folder / "config.toml")
    raise TaskError(f"{path} is not a run folder (no config.toml and data/ in it or beside it)")


def shipped_configs() -> list[Path]:
    """TOML files that travel with the package, of all tasks."""
    return sorted(path for task in TASKS for path in (Path(__file__).parent / task / "configs").glob("*.toml"))


def find_config(path: Path) -> Path:
    """A config file as given, or a shipped one by its name."""
    shipped = {config.stem: config for config in shipped_configs()}
    return path if path.is_file() else shipped.get(str(path), path)
