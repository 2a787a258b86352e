"""Training for a search: the supernet here, plans in processes of their own."""

from __future__ import annotations

import functools
import json
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path
from typing import Any

from safetensors.torch import load_model, save_model

from search import Candidate, Objective, Space
from search.sampling import Sampling
from search.supernet import Supernet
from search.training import SupernetTrainer
from tasks.config import write_config
from tasks.dispatch import module_of
from tasks.errors import Interrupted, TaskError
from tasks.search.config import SearchConfig
from tasks.search.subject import Subject
from tasks.training import conversion
from tasks.training.checkpoints import checkpoints
from tasks.training.config import PlanConfig, TrainConfig
from tasks.training.fitting import fit, read_history
from tasks.training.folder import is_finished, is_resumable
from tasks.training.stages import part_of

WEIGHTS = "supernet.safetensors"
"""File of the trained supernet in its folder."""
CHEAPEST_OF = 500
"""Random candidates, the cheapest of which is trained in each step beside the dense one."""


def trained_supernet(
    subject: Subject, space: Space, cost: Objective, config: Any, folder: Path, *, quiet: bool
) -> tuple[Supernet, dict[str, Any]]:
    """The supernet, trained now or read from its folder, and how its training went.

    Args:
        subject: the task.
        space: what is searched.
        cost: says which candidate is the cheapest.
        config: the task's whole config.
        folder: for checkpoints and weights; a training that was interrupted goes on.
        quiet: no progress bar.

    Raises:
        Interrupted: Ctrl-C; a checkpoint has been written.
    """
    settings: SearchConfig = config.search
    supernet = Supernet(subject.model, space, sharing=settings.supernet.sharing)
    weights = folder / WEIGHTS
    if weights.is_file():
        load_model(supernet.model, str(weights))
    else:
        _train_supernet(supernet, subject, cost, config, folder, quiet)
        folder.mkdir(parents=True, exist_ok=True)
        partial = weights.with_suffix(".partial")
        save_model(supernet.model, str(partial))
        partial.replace(weights)
    end = read_history(folder / "history.json")[-1]
    told = {key: end[key] for key in ("steps", "minutes", "validation_loss")}
    parameters = round(supernet.parameters_ratio * supernet.dense_parameters)
    sizes = {"parameters": parameters, "dense_parameters": supernet.dense_parameters}
    return supernet, {**sizes, "sharing": supernet.sharing, **told}


def _train_supernet(
    supernet: Supernet, subject: Subject, cost: Objective, config: Any, folder: Path, quiet: bool
) -> None:
    settings = config.search.supernet
    train = part_of(config.train, settings.share, settings.learning_rate)
    # The average of checkpoints is for the model that ships; statistics of cores must not be averaged with it.
    train = replace(train, average_checkpoints=0)
    space = supernet.space
    sampling = Sampling(
        space,
        largest=space.uniform("dense"),
        smallest=_cheapest(space, cost),
        kind=settings.sampling,
        randoms=settings.randoms,
        seed=config.seed,
    )
    trainer = functools.partial(
        SupernetTrainer, supernet=supernet, sampling=sampling, distill=settings.distill, matching=settings.matching
    )
    result = fit(
        supernet.model,
        subject.material,
        train,
        folder / "checkpoints",
        seed=config.seed,
        resume=bool(checkpoints(folder / "checkpoints")),
        optimizer=conversion.latent_optimizer(supernet.model, train, config.search.dynamics),
        trainer_class=trainer,
        label="supernet",
        quiet=quiet,
    )
    if result.interrupted:
        raise Interrupted(f"stopped at step {result.steps} of the supernet; a checkpoint is in {folder}")


def _cheapest(space: Space, cost: Objective) -> Candidate:
    rng = random.Random(0)
    drawn = [space.sample(rng) for _ in range(CHEAPEST_OF)]
    return min((*space.reference_points().values(), *drawn), key=lambda c: cost.sign * cost.measure(space.to_plan(c)))


@dataclass(frozen=True)
class Retraining:
    """One training of a plan from the config's own start, in a run folder like any other.

    Args:
        name: of the plan, for people.
        folder: the run folder.
        plan: its file; None trains the dense model.
        seed: of the training.
        share: length in parts of `[train]`.
        score: whether the test set is scored.
    """

    name: str
    folder: Path
    plan: Path | None
    seed: int
    share: float = 1.0
    score: bool = True

    @property
    def model(self) -> str:
        """Which model of the run is meant: what ships."""
        return "packed" if self.plan else "model"

    def config(self, whole: Any) -> Any:
        """The config of this run."""
        settings: SearchConfig = whole.search
        train: TrainConfig = part_of(whole.train, self.share)
        if settings.workers > 1:
            train = replace(train, threads=1)
        plan = PlanConfig(file=str(self.plan), dynamics=settings.dynamics) if self.plan else None
        return replace(whole, run_dir=str(self.folder), seed=self.seed, train=train, plan=plan, search=None)

    def finished(self) -> bool:
        """Whether it is done, with its scores."""
        return is_finished(self.folder, packed=self.model == "packed") and (not self.score or bool(self.results()))

    def results(self) -> dict[str, Any]:
        """Scores on the test set; empty if there are none."""
        files = sorted((self.folder / "results").glob(f"{self.model}-test*.json"))
        return json.loads(files[-1].read_text(encoding="utf-8")) if files else {}

    def end(self) -> dict[str, Any]:
        """How the training ended."""
        return read_history(self.folder / "history.json")[-1]


def retrain(runs: Sequence[Retraining], whole: Any, say: Callable[[str], None]) -> None:
    """Train whatever is not there yet, several at a time, each in a process of its own; a single worker needs none.

    Args:
        runs: what to train.
        whole: the config of the search.
        say: told of each training that has ended.

    Raises:
        TaskError: a training failed; its message is the training's own.
        Interrupted: Ctrl-C; all trainings have left checkpoints.
    """
    missing = [run for run in runs if not run.finished()]
    workers: int = whole.search.workers
    train = _here if workers == 1 else _in_own_process
    pool = ThreadPoolExecutor(workers)
    finished = map(train, missing, repeat(whole)) if workers == 1 else pool.map(train, missing, repeat(whole))
    try:
        for number, run in enumerate(finished, 1):
            say(f"  {number} of {len(missing)}: {run.name}, validation loss {run.end()['validation_loss']:.4f}")
    except KeyboardInterrupt:  # the trainings have got the signal, too, and write their checkpoints
        raise Interrupted("stopped while training plans") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _here(run: Retraining, whole: Any) -> Retraining:
    config = run.config(whole)
    resume = _goes_on(run)
    module_of(config, "train").train(config, resume=resume, overwrite=not resume, quiet=True)
    if run.score:
        module_of(config, "evaluate").evaluate_run(run.folder, model=run.model, progress=False)
    return run


def _in_own_process(run: Retraining, whole: Any) -> Retraining:
    config = run.folder.with_suffix(".toml")
    config.parent.mkdir(parents=True, exist_ok=True)
    write_config(run.config(whole), config)
    command = [sys.executable, "-m", "tasks.cli", "train", str(config)]
    command.append("--resume" if _goes_on(run) else "--overwrite")
    command += [] if run.score else ["--no-score"]
    log = run.folder.with_suffix(".log")
    with log.open("w", encoding="utf-8") as output:
        code = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, check=False).returncode
    if code == 130:
        raise Interrupted(f"stopped while training {run.name}")
    if code:
        lines = log.read_text(encoding="utf-8").strip().splitlines()
        raise TaskError(f"training {run.name} failed: {lines[-1] if lines else 'no message'} (all of it in {log})")
    return run


def _goes_on(run: Retraining) -> bool:
    """Whether an earlier training stopped half way."""
    return is_resumable(run.folder) and not is_finished(run.folder)
