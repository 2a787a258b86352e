"""How is nothing measured twice, also by another search over the same supernet? Scores in a file, plan by plan."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from shiftadd_transformers.plan import Plan

from .objectives import Objective


def remembered(objective: Objective, path: Path) -> Objective:
    """The same objective, which looks into a file before it measures.

    The file has one line of JSON per score and is only ever appended to; a line that a full disk or a crash cut short
    is measured again. Several processes may share it.

    Args:
        objective: Whose plans.
        path: Its folder must exist. A file holds scores of one supernet, whatever the objectives are.
    """
    known: dict[str, float] = {}
    read = 0

    def measure(plan: Plan) -> float:
        nonlocal read
        text, read = _added_since(path, read)
        known.update(_scores(text, objective.name))
        key = hashlib.sha256(plan.to_json().encode()).hexdigest()
        if key not in known:
            known[key] = float(objective.measure(plan))
            row = json.dumps({"plan": key, "objective": objective.name, "score": known[key]})
            # A score that cannot be kept (the disk is full) is still a score: the study decides whether to go on.
            with suppress(OSError), path.open("a", encoding="utf-8") as file:
                file.write(f"\n{row}\n")  # a line of its own, even behind half a line
        return known[key]

    return replace(objective, measure=measure)


def _added_since(path: Path, place: int) -> tuple[str, int]:
    """What stands in a file from a place on, and where it ends."""
    if not path.is_file():
        return "", 0
    with path.open("rb") as file:
        file.seek(place)
        added = file.read()
    return added.decode("utf-8", errors="replace"), place + len(added)


def _scores(text: str, objective: str) -> dict[str, float]:
    found = {}
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and row.get("objective") == objective:
            found[str(row["plan"])] = float(row["score"])
    return found
