"""What are the best plans worth once they are trained as long as the dense model and the uniform plans?"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search import Point, Result
from shiftadd_transformers.plan import Plan
from tasks.config import write_text
from tasks.errors import TaskError
from tasks.search.training import Retraining, retrain

if TYPE_CHECKING:
    from tasks.search.steps import Session


@dataclass(frozen=True)
class Final:
    """A plan that is trained in full.

    Args:
        name: for people.
        plan: None is the dense model.
        point: where it was found; None for a plan to compare with.
    """

    name: str
    plan: Plan | None
    point: Point | None = None

    @property
    def slug(self) -> str:
        """Name of its folder."""
        return "".join(c if c.isalnum() or c in ".-" else "-" for c in self.name)


def train_finals(session: Session, result: Result) -> list[dict[str, Any]]:
    """Train the dense model, the uniform plans and the best plan at each energy, and score them on the test set.

    Returns:
        One row per training.
    """
    levels = _levels(session)
    if not levels:
        return []
    session.say("── training the best plans, and what they are compared with")
    dense = session.space.uniform("dense")
    finals = [Final("dense", session.space.to_plan(dense) if session.space.to_plan(dense).converted else None)]
    finals += [
        Final(f"all {kind}", session.space.to_plan(session.space.uniform(kind)))
        for kind in dict.fromkeys(level for level in session.settings.at if level in session.space.kinds())
    ]
    finals += [_best(session, result, name, limit) for name, limit in levels.items()]
    runs = [
        (final, _run(session, final, session.folder / "finals", seed))
        for final in finals
        for seed in range(session.config.seed, session.config.seed + session.settings.seeds)
    ]
    retrain([run for _, run in runs], session.config, session.say)
    return [_row(session, final, run) for final, run in runs]


def _levels(session: Session) -> dict[str, float]:
    """What the best plan may spend: name to picojoules."""
    price = session.energy
    found = {}
    for level in session.settings.at:
        if level in session.space.kinds():
            found[f"best at the energy of all {level}"] = price.measure(
                session.space.to_plan(session.space.uniform(level))
            )
            continue
        try:
            share = float(level)
        except ValueError:
            kinds = ", ".join(session.space.kinds())
            raise TaskError(
                f"search.at: {level!r} is neither an operator of the space ({kinds}) nor a number"
            ) from None
        dense = price.measure(session.space.to_plan(session.space.uniform("dense")))
        found[f"best at {share:g} of the dense energy"] = share * dense
    return found


def _best(session: Session, result: Result, name: str, limit: float) -> Final:
    """The plan within the limit that is best by a short training, among those that the supernet likes most.

    Uniform plans are not among them: they are what it is compared with.
    """
    price, quality = session.energy, session.quality
    uniform = set(session.space.reference_points().values())
    measured = [p for p in result.points if p.scores[quality.name] is not None and p.candidate not in uniform]
    able = [p for p in measured if price.measure(p.plan) <= limit]
    if not able:
        raise TaskError(f"no plan was found for search.at: {name}; raise it, or search longer")
    able.sort(key=lambda p: (quality.sign * (p.scores[quality.name] or 0.0), p.number))
    finalists = [Final(f"{name} {number}", p.plan, p) for number, p in enumerate(able[: session.settings.finalists])]
    if len(finalists) == 1:
        return replace(finalists[0], name=name)
    share = session.settings.trust.share
    runs = [_run(session, f, session.folder / "finalists", session.config.seed, share, score=False) for f in finalists]
    retrain(runs, session.config, session.say)
    chosen = min(zip(runs, finalists, strict=True), key=lambda pair: pair[0].end()["validation_loss"])[1]
    return replace(chosen, name=name)


def _run(
    session: Session, final: Final, place: Path, seed: int, share: float = 1.0, *, score: bool = True
) -> Retraining:
    plan = None
    if final.plan is not None:
        plan = place / f"{final.slug}.json"
        write_text(plan, final.plan.to_json())
    return Retraining(f"{final.name}, seed {seed}", place / final.slug / str(seed), plan, seed, share, score)


def _row(session: Session, final: Final, run: Retraining) -> dict[str, Any]:
    key, unit = session.subject.test
    plan = final.plan or session.space.to_plan(session.space.uniform("dense"))
    end = run.end()
    return {
        "name": final.name,
        "quality": {unit: session.subject.test_factor * run.results()[key], "validation loss": end["validation_loss"]},
        "energy_pj": session.energy.measure(plan),
        "stored_bytes": session.stored.measure(plan),
        "minutes": end["minutes"],
        "steps": end["steps"],
        "seed": run.seed,
        "candidate": list(final.point.candidate) if final.point else None,
    }
