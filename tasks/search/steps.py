"""The search, from a config to a front of plans and a report.

    data, model ─► space, costs ─► supernet ─► study ─► front.json ─► sample trained (τ) ─► best plans trained ─► page

Every step leaves its result in the run folder and is skipped if it is there, so the same command goes on after a stop.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers.utils.logging import disable_progress_bar

from search import Candidate, Objective, Point, Result, Space, energy, stored_bytes
from search.costs import Costs
from search.remembering import remembered
from search.sensitivity import warm_starts
from search.trust import agreement, spread_sample
from tasks.config import to_tables, write_config, write_text
from tasks.dispatch import module_of, read_task_config
from tasks.errors import TaskError
from tasks.search.config import SearchConfig
from tasks.search.finals import train_finals
from tasks.search.space import make_costs, make_quality, make_space
from tasks.search.studying import studied
from tasks.search.subject import Subject
from tasks.search.summary import build_report, publish, summary
from tasks.search.training import WEIGHTS, Retraining, retrain, trained_supernet
from tasks.training.loading import load_network

SUPERNET = "supernet"
"""Folder of the supernet in the run folder."""


@dataclass(frozen=True)
class Session:
    """What the steps behind the supernet need.

    Args:
        config: of a task, with `[search]`.
        folder: the run folder.
        subject: the task.
        space: what is searched.
        costs: of its plans.
        objectives: quality first, then what is to be saved.
        say: tells the user.
        quiet: no bars.
    """

    config: Any
    folder: Path
    subject: Subject
    space: Space
    costs: Costs
    objectives: tuple[Objective, ...]
    say: Callable[[str], None]
    quiet: bool

    @property
    def settings(self) -> SearchConfig:
        """`[search]`."""
        found: SearchConfig = self.config.search
        return found

    @property
    def quality(self) -> Objective:
        """What plans are compared by."""
        return self.objectives[0]

    @cached_property
    def energy(self) -> Objective:
        """Of a plan, whatever the search is to save."""
        return energy(self.costs)

    @cached_property
    def stored(self) -> Objective:
        """Bytes of a plan's packed checkpoint."""
        return stored_bytes(self.costs)


def run_search(config: Any, *, resume: bool = False, overwrite: bool = False, quiet: bool = False) -> dict[str, Any]:
    """Search as the config says, or what is left of it.

    Args:
        config: of a task, with `[search]`.
        resume: go on with the search in the run folder.
        overwrite: throw away an earlier one.
        quiet: no bars and no messages.

    Returns:
        The report, which is also in `search.json` and `report.html`; the plans are in `front.json`.

    Raises:
        TaskError: anything that the user can put right; no plan within the budgets, with the closest one named.
        Interrupted: Ctrl-C; the same command with --resume goes on.
    """
    folder = prepared_folder(config, resume=resume, overwrite=overwrite)
    session, about = _opened(config, folder, quiet)
    space, say = session.space, session.say
    result, randoms = _searched(session)
    write_text(folder / "front.json", result.front.to_json() + "\n")
    able = bool(result.front.points)
    trust = _trusted(session, [point for found in (result, *randoms) for point in found.points]) if able else None
    finals = train_finals(session, result) if able else []
    report = build_report(
        f"Plans for {space.model}",
        config.task,
        space,
        result,
        settings=_settings(session),
        randoms=randoms,
        supernet=about,
        trust=trust,
        retrained=finals,
    )
    publish(report, folder)
    if not able:
        raise TaskError(f"{result.summary()} (all plans: {folder / 'report.html'})")
    say(f"\n{summary(report)}\n{folder / 'front.json'}\n{folder / 'report.html'}")
    return report


def join_search(config: Any, *, quiet: bool = False) -> Result:
    """Evaluate plans of a search that runs elsewhere, until as many are evaluated as it asked for.

    The supernet must be in the run folder: on a machine that does not share it, copy the folder first, and let
    `search.storage` name a database that both can reach.

    Args:
        config: that of the search.
        quiet: no bars and no messages.

    Raises:
        TaskError: there is no such search, or its supernet is not trained yet.
        Interrupted: Ctrl-C; what was evaluated is recorded.
    """
    folder = Path(config.run_dir)
    if not (folder / SUPERNET / WEIGHTS).is_file():
        raise TaskError(f"{folder} holds no trained supernet to join; start the search, and join when it has one")
    prepared_folder(config, resume=True, overwrite=False)
    session, _ = _opened(config, folder, quiet)
    result = _studied(session)
    session.say(result.summary())
    return result


def _opened(config: Any, folder: Path, quiet: bool) -> tuple[Session, dict[str, Any]]:
    """Everything that a study needs, and what there is to say of the supernet; it is trained if it has to be."""
    disable_progress_bar()  # transformers draws one for every model that is read or written
    say: Callable[[str], None] = (lambda text: None) if quiet else lambda text: print(text, flush=True)
    subject: Subject = module_of(config, "subject").make_subject(config, folder)
    space = make_space(config.search, subject.model)
    costs, spent = make_costs(config.search, space, subject)
    say(f"{space.count():,} plans, {len(space.decisions)} decisions; costs are of {subject.inputs_note}\n── supernet")
    supernet, about = trained_supernet(subject, space, spent[0], config, folder / SUPERNET, quiet=quiet)
    say(f"{about['parameters'] / about['dense_parameters']:.2f} times the dense model's parameters\n── search")
    quality = remembered(make_quality(config.search, subject, supernet), folder / "scores.jsonl")
    return Session(config, folder, subject, space, costs, (quality, *spent), say, quiet), about


def prepared_folder(config: Any, *, resume: bool, overwrite: bool) -> Path:
    """Make the run folder and write the resolved config; an earlier search is never lost by accident.

    Raises:
        TaskError: the config has no `[search]`; a search is there and neither `resume` nor `overwrite` is asked for;
            nothing is there to resume, or another search.
    """
    if config.search is None:
        raise TaskError('the config has no [search] table; add one, e.g. [search] with preset = "vit"')
    folder = Path(config.run_dir)
    known = folder / "config.toml"
    if known.is_file() and not (resume or overwrite):
        raise TaskError(f"{folder} already holds a run: use --resume, --overwrite, or another run_dir")
    if resume:
        if not known.is_file():
            raise TaskError(f"nothing to resume in {folder}")
        earlier, wanted = to_tables(read_task_config(known)), to_tables(config)
        if changed := sorted(key for key in {*earlier, *wanted} if earlier.get(key) != wanted.get(key)):
            raise TaskError(
                f"{folder} holds a search with another {', '.join(changed)}; use the same config, or another run_dir"
            )
    elif overwrite:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    write_config(config, known)
    return folder


def _settings(session: Session) -> dict[str, str]:
    settings = session.settings
    return {
        "costs are of": session.subject.inputs_note,
        "sampler": f"{settings.sampler}, population {settings.population}, seed {session.config.seed}",
        "evaluations": str(settings.evaluations),
        "supernet": f"{settings.supernet.sampling} sampling, {settings.supernet.randoms} random plans a step",
        "plans trained": f"each from the config's own start, as long as [train] says, seeds: {settings.seeds}",
    }


def _searched(session: Session) -> tuple[Result, list[Result]]:
    """The study, and random searches of the same length beside it."""
    result = _studied(session)
    randoms = []
    for seed in range(session.settings.random_seeds):
        place = session.folder / "random.journal"
        randoms.append(_evolved(session, f"random {seed}", "random", seed, place, None))
    session.say(result.summary())
    return result, randoms


def _studied(session: Session) -> Result:
    """The search itself, shared by all workers."""
    settings = session.settings
    storage = settings.storage or session.folder / "study.journal"
    starts = warm_starts(session.space, session.quality, session.objectives[1], settings.evaluations)
    return _evolved(session, "search", settings.sampler, session.config.seed, storage, starts)


def _evolved(
    session: Session, name: str, sampler: str, seed: int, storage: str | Path, starts: Sequence[Candidate] | None
) -> Result:
    settings = session.settings
    return studied(
        name,
        session.space,
        session.objectives,
        storage,
        settings.evaluations,
        quiet=session.quiet,
        sampler=sampler,
        population=settings.population,
        seed=seed,
        name=f"{Path(session.config.run_dir).name}: {name}",
        starts=starts,
    )


def _trusted(session: Session, points: Sequence[Point]) -> dict[str, Any] | None:
    """Train a sample of plans, and compare the supernet's ranking with theirs."""
    settings = session.settings.trust
    if not settings.plans:
        return None
    session.say(f"── training {settings.plans} plans, to see whether the supernet ranks them as training does")
    unique = {point.candidate: point for point in points}
    sample = spread_sample(session.quality, list(unique.values()), settings.plans)
    runs = []
    for number, point in enumerate(sample):
        folder = session.folder / "trust" / str(number)
        plan = folder.with_suffix(".json")
        write_text(plan, point.plan.to_json())
        runs.append(Retraining(f"plan {number}", folder, plan, session.config.seed, settings.share, score=False))
    retrain(runs, session.config, session.say)
    score = session.subject.qualities[session.settings.quality].score
    given = [float(point.scores[session.quality.name] or 0.0) for point in sample]
    found = [score(load_network(run.folder / "model")) for run in runs]
    agreed = agreement(given, found)
    warning = agreed.warning(settings.least)
    session.say(f"Kendall's τ {agreed.tau:.2f} over {agreed.plans} plans (p = {agreed.p:.2g})")
    if warning:
        session.say(f"warning: {warning}")
    rows = [
        {"name": str(number), "plan": point.plan.summary(), "supernet": mine, "retrained": other}
        for number, (point, mine, other) in enumerate(zip(sample, given, found, strict=True))
    ]
    return {
        "tau": agreed.tau,
        "p": agreed.p,
        "score": session.quality.name,
        "plans": rows,
        "warning": warning,
        "sharing": session.settings.supernet.sharing,
    }
