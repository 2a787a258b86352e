"""What does a search need to know of a task?  Each task has a module `subject` that gives it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tasks.training.fitting import Material


@dataclass(frozen=True)
class Quality:
    """A number that says how well a model does on the validation data.

    Args:
        name: for people.
        score: model to number.
        direction: whether less or more is better.
        unit: for people.
    """

    name: str
    score: Callable[[Any], float]
    direction: Literal["minimise", "maximise"]
    unit: str = ""


@dataclass(frozen=True)
class Subject:
    """A task, ready to be searched.

    Args:
        model: dense, with its first weights.
        material: data, batches, loss.
        inputs: keyword inputs of the forward whose operations are counted.
        inputs_note: what these are, in words.
        qualities: by the name that `search.quality` gives them.
        test: names, in the results of a run, of what retrained plans are compared by, with its unit: ("bleu", "BLEU").
        test_factor: what those numbers are multiplied with to be in that unit.
    """

    model: Any
    material: Material
    inputs: Mapping[str, Any]
    inputs_note: str
    qualities: Mapping[str, Quality]
    test: tuple[str, str]
    test_factor: float = 1.0
