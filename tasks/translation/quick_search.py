"""Which plans does a trained translation model bear without fine-tuning?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks.search.quick import quick_search
from tasks.training.scoring import validation_loss
from tasks.translation.config import TranslationConfig
from tasks.translation.cost import typical_batch
from tasks.translation.data import load_split
from tasks.translation.model import load_model
from tasks.translation.train import held_out_material

JUDGED = 150
"""Validation sentences that each plan is judged by."""


def search_trained(
    config: TranslationConfig, folder: Path, *, evaluations: int, quiet: bool = False
) -> list[dict[str, Any]]:
    """Search plans for the model of a finished run, by its loss right after the conversion and by energy.

    Args:
        config: of the run.
        folder: for `front.json` and `report.html`.
        evaluations: plans to try.
        quiet: no bar.

    Returns:
        The front: scores, and what each plan consists of.
    """
    run = Path(config.run_dir)
    model, tokenizer = load_model(run / "model")
    pairs = load_split(run / "data", "validation")[:JUDGED]
    material = held_out_material(model, tokenizer, pairs, config.train)
    front = quick_search(
        model,
        "validation loss",
        lambda network: validation_loss(network, material),
        typical_batch(tokenizer, load_split(run / "data", "test"))[0],
        folder,
        evaluations=evaluations,
        settings={"plans judged": f"right after the conversion, by {len(pairs)} validation sentences"},
        quiet=quiet,
    )
    return [{"scores": dict(point.scores), "plan": point.plan.summary()} for point in front.points]
