"""A search without training: which operators does a trained model bear, layer by layer?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from search import Front, Space, choose, energy, measure_costs
from search.remembering import remembered
from search.sensitivity import warm_starts
from search.untrained import untrained
from shiftadd_transformers.specs import AdderSpec, DenseSpec, ShiftSpec
from tasks.config import write_text
from tasks.search.studying import studied
from tasks.search.summary import build_report, publish

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
    starts = warm_starts(space, lost, spent, evaluations)
    result = studied("search", space, [lost, spent], folder / "study.journal", evaluations, quiet=quiet, starts=starts)
    report = build_report(f"Plans for {space.model}, untrained", "", space, result, settings=settings)
    write_text(folder / "front.json", result.front.to_json() + "\n")
    publish(report, folder)
    return result.front
