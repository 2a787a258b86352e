"""How does a study run in a terminal? With a bar, and a stop that says what was kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from search import Objective, Result, Space, evolve
from tasks.errors import Interrupted
from tasks.training.schedule import refresh_seconds


def studied(
    label: str,
    space: Space,
    objectives: Sequence[Objective],
    storage: str | Path,
    evaluations: int,
    *,
    quiet: bool,
    **options: Any,
) -> Result:
    """Search, or go on with it.

    Args:
        label: of the bar.
        space: what to choose from.
        objectives: what to choose by.
        storage: as for `evolve`.
        evaluations: plans in all.
        quiet: no bar.
        options: as for `evolve`.

    Raises:
        Interrupted: Ctrl-C; what was evaluated is recorded.
    """
    with tqdm(desc=label, total=evaluations, unit="plan", mininterval=refresh_seconds(), disable=quiet) as bar:
        result = evolve(
            space,
            objectives,
            evaluations=evaluations,
            storage=storage,
            after=lambda point: bar.update() and None,
            **options,
        )
    if result.interrupted:
        raise Interrupted(f"stopped after {len(result.points)} plans, which are recorded in {storage}")
    return result
