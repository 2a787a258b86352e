"""Which study answers this question? The one of this name, if it was asked the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from optuna.study import Study, StudyDirection

from .objectives import Objective
from .space import Space


def study_about(
    space: Space, objectives: Sequence[Objective], storage: BaseStorage, name: str, sampler: BaseSampler
) -> Study:
    """Make a study, or open it if it exists.

    Args:
        space: What is searched.
        objectives: What for.
        storage: Where studies are.
        name: Of the study.
        sampler: Who proposes.

    Raises:
        ValueError: The study of this name is about another space or other objectives.
    """
    directions = [StudyDirection.MINIMIZE if o.sign > 0 else StudyDirection.MAXIMIZE for o in objectives]
    with quiet():
        study = optuna.create_study(
            storage=storage, study_name=name, sampler=sampler, directions=directions, load_if_exists=True
        )
    digest = hashlib.sha256(json.dumps(space.to_dict(), sort_keys=True).encode()).hexdigest()
    asked = {"space": digest, "objectives": [o.to_dict() for o in objectives]}
    known = study.user_attrs
    for key, value in asked.items():
        before = known.get(key, value)
        if before != value:
            raise ValueError(
                f"study {name!r} was about {_other(key, before)}; give this search another name, or ask the same"
            )
    for key in asked.keys() - known.keys():
        study.set_user_attr(key, asked[key])
    return study


@contextmanager
def quiet() -> Iterator[None]:
    """Without Optuna's lines about what it makes, finds or skips."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(level)


def _other(key: str, before: Any) -> str:
    if key == "space":
        return "another space"
    goals = (f"{o['name']} ({o['direction']}, budget {o['budget']})" for o in before)
    return f"other objectives or budgets: {', '.join(goals)}"
