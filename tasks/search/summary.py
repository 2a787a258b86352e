"""What came out of a search? The dictionary that search.json and the page hold, and a few lines of text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from search import Result, Space
from search.pareto import losses_of
from shiftadd_transformers.cost.report import joules
from tasks.config import write_text
from tasks.search.report import write


def build_report(
    title: str,
    task: str,
    space: Space,
    result: Result,
    *,
    settings: Mapping[str, str],
    randoms: Sequence[Result] = (),
    supernet: Mapping[str, Any] | None = None,
    trust: Mapping[str, Any] | None = None,
    retrained: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Put all findings together.

    Args:
        title: of the page.
        task: whose model.
        space: what was searched.
        result: of the search.
        settings: what a reader should know of how.
        randoms: random searches of the same length.
        supernet: its sizes and training.
        trust: its agreement with trained plans.
        retrained: trainings of the best plans and of what they are compared with.
    """
    numbers = {point.candidate: number for number, point in enumerate(result.points)}
    corner = _worst([result, *randoms])
    return {
        "title": title,
        "task": task,
        "space": {
            "count": space.count(),
            "decisions": len(space.decisions),
            "table": [[d.name, ", ".join(d.labels)] for d in space.decisions],
        },
        "objectives": [o.to_dict() for o in result.objectives],
        "points": [point.to_dict() for point in result.points],
        "front": [numbers[point.candidate] for point in result.front.points],
        "references": _references(space, result),
        "hypervolume": {
            "reference": {o.name: value for o, value in zip(result.objectives, corner, strict=bool(corner))},
            "search": result.hypervolume_history(corner) if corner else [],
            "random": [found.hypervolume_history(corner) for found in randoms] if corner and randoms else None,
        },
        "trust": trust,
        "retrained": list(retrained),
        "supernet": supernet,
        "settings": dict(settings),
    }


def publish(report: Mapping[str, Any], folder: Path) -> None:
    """Write what was found as `search.json` and as a page."""
    write_text(folder / "search.json", json.dumps(report, indent=1) + "\n")
    write(report, folder / "report.html")


def summary(report: Mapping[str, Any]) -> str:
    """The result as a few lines of text."""
    lines = [f"{len(report['front'])} plans on the front of {len(report['points'])} evaluated"]
    hypervolume = report["hypervolume"]
    if hypervolume["random"]:
        others = ", ".join(f"{history[-1]:.4g}" for history in hypervolume["random"])
        lines.append(f"hypervolume {hypervolume['search'][-1]:.4g}; of random searches {others}")
    if report["trust"]:
        lines.append(f"Kendall's τ between supernet and training {report['trust']['tau']:.2f}")
    width = max((len(row["name"]) for row in report["retrained"]), default=0)
    for row in report["retrained"]:
        scores = "  ".join(f"{name} {value:.4g}" for name, value in row["quality"].items())
        lines.append(f"{row['name']:{width}}  seed {row['seed']}  {scores}  {joules(row['energy_pj'])}")
    return "\n".join(lines)


def _references(space: Space, result: Result) -> list[dict[str, Any]]:
    """The uniform plans, the dense one among them, with their scores."""
    found = {point.candidate: point for point in result.points}
    return [
        {"name": kind, "scores": dict(found[c].scores), "plan": found[c].plan.to_dict()}
        for kind, c in space.reference_points().items()
        if c in found
    ]


def _worst(results: Sequence[Result]) -> list[float]:
    """The worst value of each objective among all feasible points: one corner for all hypervolumes."""
    objectives = results[0].objectives
    losses = [losses_of(objectives, point) for found in results for point in found.points if point.feasible]
    return [o.sign * max(loss[i] for loss in losses) for i, o in enumerate(objectives)] if losses else []
