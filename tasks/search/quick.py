"""A search without training: which operators does a trained model bear, layer by layer?"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from search import Front, Space, choose, energy, evolve, measure_costs
from search.remembering import remembered
from search.sensitivity import warm_starts
from search.untrained import untrained
from shiftadd_transformers.specs import AdderSpec, DenseSpec, ShiftSpec
from tasks.config import write_text
from tasks.errors import Interrupted
from tasks.search.report import write
from tasks.search.summary import build_report
from tasks.training.schedule import refresh_seconds

CHOICES = [DenseSpec(), ShiftSpec(bits=4), ShiftSpec(bits=3), ShiftSpec(bits=4, terms=2), AdderSpec()]


def quick_search(
    model: Any,
    name: str,
    score: Callable[[Any], float],
    inputs: Mapping[str, Any],
    folder: Path,
    *,
    evaluations: int,
    settings: Mapping[str, str],
    quiet: bool = False,
) -> Front:
    """Search the linear layers of a trained model by its quality right after the conversion, and by energy.

    Args:
        model: dense and trained; not changed.
        name: of the score.
        score: model to number, less is better.
        inputs: keyword inputs of the forward whose energy is counted.
        folder: for `front.json`, `search.json` and `report.html`; a search that stopped goes on.
        evaluations: plans to try.
        settings: what the page says of how the numbers came about.
        quiet: no bar.

    Returns:
        The front, best score first.

    Raises:
        Interrupted: Ctrl-C; the same call goes on.
    """
    space = Space.of(model, [choose(CHOICES, role=role, together="layer") for role in ("attn.*", "mlp.*")])
    spent = energy(measure_costs(space, model, inputs))
    folder.mkdir(parents=True, exist_ok=True)
    lost = remembered(untrained(model, name, score), folder / "scores.jsonl")
    with tqdm(desc="search", total=evaluations, unit="plan", mininterval=refresh_seconds(), disable=quiet) as bar:
        result = evolve(
            space,
            [lost, spent],
            evaluations=evaluations,
            storage=folder / "study.journal",
            starts=warm_starts(space, lost, spent, evaluations),
            after=lambda point: bar.update() and None,
        )
    if result.interrupted:
        raise Interrupted("stopped while searching")
    report = build_report(f"Plans for {space.model}, untrained", "", space, result, settings=settings)
    write_text(folder / "front.json", result.front.to_json() + "\n")
    write_text(folder / "search.json", json.dumps(report, indent=1) + "\n")
    write(report, folder / "report.html")
    return result.front
