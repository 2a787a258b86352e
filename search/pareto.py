"""Which plans are worth a look? Those that no other beats in everything, and how much of the space they cover."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from shiftadd_transformers.plan import Plan

from .decisions import Candidate
from .objectives import Direction, Objective

FORMAT = 1


@dataclass(frozen=True)
class Point:
    """An evaluated candidate.

    Args:
        candidate: In its space.
        plan: What it stands for.
        scores: Objective → value; None where a budget was exceeded before it was measured.
        excess: By how much budgets are exceeded in all, in parts of them; 0 for a feasible plan.
        number: Of the trial in its study.
    """

    candidate: Candidate
    plan: Plan
    scores: Mapping[str, float | None]
    excess: float = 0.0
    number: int = 0

    @property
    def feasible(self) -> bool:
        """Whether it is within all budgets."""
        return self.excess <= 0

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "candidate": list(self.candidate),
            "number": self.number,
            "scores": dict(self.scores),
            "excess": self.excess,
            "plan": self.plan.to_dict(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Point:
        """Rebuild from the JSON form."""
        plan = Plan.from_dict(data["plan"])
        return cls(tuple(data["candidate"]), plan, data["scores"], data["excess"], data["number"])


@dataclass(frozen=True)
class Front:
    """Non-dominated plans within the budgets, best in the first objective first.

    Args:
        objectives: What they are compared by.
        points: The plans with their scores.
    """

    objectives: tuple[Objective, ...]
    points: tuple[Point, ...]

    @classmethod
    def of(cls, objectives: Sequence[Objective], points: Sequence[Point]) -> Front:
        """The front among these points; plans that score the same stay side by side."""
        able = [point for point in points if point.feasible]
        losses = [losses_of(objectives, point) for point in able]
        order = sorted(range(len(able)), key=lambda i: (losses[i], able[i].candidate))
        best: list[int] = []
        for i in order:  # who dominates another stands before it
            if not any(_dominates(losses[j], losses[i]) for j in best):
                best.append(i)
        return cls(tuple(objectives), tuple(able[i] for i in best))

    def hypervolume(self, reference: Sequence[float]) -> float:
        """Volume between the front and a reference point, given in the objectives' own units."""
        corner = [o.sign * value for o, value in zip(self.objectives, reference, strict=True)]
        return hypervolume([losses_of(self.objectives, point) for point in self.points], corner)

    def table(self) -> str:
        """One line per plan: its scores and what it consists of."""
        header = "  ".join(f"{o.name:>16}" for o in self.objectives)
        lines = [
            "  ".join(f"{o.shown(point.scores[o.name]):>16}" for o in self.objectives) + "  " + point.plan.summary()
            for point in self.points
        ]
        return "\n".join([header, *lines])

    def to_json(self) -> str:
        """The front as text: plans with scores, and what the scores mean."""
        objectives = [o.to_dict() for o in self.objectives]
        points = [point.to_dict() for point in self.points]
        return json.dumps({"format": FORMAT, "objectives": objectives, "points": points}, indent=2)

    @classmethod
    def from_json(cls, text: str | Path) -> Front:
        """Read a front from JSON text, or from the file that a `Path` names. Its objectives cannot measure anew.

        Raises:
            ValueError: It is not a front, or one of another format.
        """
        data = json.loads(text.read_text() if isinstance(text, Path) else text)
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise ValueError(f"not a front of format {FORMAT}: write it with Front.to_json()")
        objectives = (_remembered(o) for o in data["objectives"])
        return cls(tuple(objectives), tuple(map(Point.from_dict, data["points"])))


def losses_of(objectives: Sequence[Objective], point: Point) -> tuple[float, ...]:
    """A point's scores, turned so that less is better.

    Raises:
        ValueError: A score was not measured.
    """
    values = [point.scores[o.name] for o in objectives]
    if None in values:
        raise ValueError(f"candidate {point.candidate} exceeds a budget and was not measured in everything")
    return tuple(o.sign * cast(float, value) for o, value in zip(objectives, values, strict=True))


def hypervolume(losses: Sequence[Sequence[float]], reference: Sequence[float]) -> float:
    """Volume of what is dominated by some point and dominates the reference; less is better everywhere.

    Exact, by slices along the last coordinate: quick for two and three objectives.

    Args:
        losses: Points `[n, objectives]`.
        reference: The corner; points beyond it add nothing.

    >>> hypervolume([(1, 3), (2, 1), (9, 9)], (4, 4))
    7.0
    >>> hypervolume([(0, 0, 0), (0, 0, 0)], (1, 2, 3))
    6.0
    """
    inside = [tuple(loss) for loss in losses if all(x < r for x, r in zip(loss, reference, strict=True))]
    if not inside:
        return 0.0
    *rest, last = reference
    if not rest:
        return float(last - min(loss[-1] for loss in inside))
    heights = sorted({loss[-1] for loss in inside})
    total = 0.0
    for low, high in zip(heights, [*heights[1:], last], strict=True):
        total += (high - low) * hypervolume([loss[:-1] for loss in inside if loss[-1] <= low], rest)
    return total


def _dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    return tuple(a) != tuple(b) and all(x <= y for x, y in zip(a, b, strict=True))


def _remembered(data: Mapping[str, Any]) -> Objective:
    name, direction = str(data["name"]), cast(Direction, data["direction"])

    def refuse(plan: Plan) -> float:
        raise ValueError(f"{name} was read from a file and cannot measure a plan; make the objective anew")

    return Objective(name, refuse, direction, data["unit"], data["budget"])
