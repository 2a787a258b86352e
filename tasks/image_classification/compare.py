"""Which of several configs is best, and is the difference more than chance?  The same seeds and images for each."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tasks.config import to_tables, write_text
from tasks.dispatch import read_task_config
from tasks.errors import TaskError
from tasks.image_classification.config import ImageConfig
from tasks.statistics import t_interval
from tasks.training.folder import is_finished, is_resumable


@dataclass(frozen=True)
class Variant:
    """One of the configs that are compared, under the name of its file."""

    name: str
    config: ImageConfig

    @classmethod
    def read(cls, path: Path, overrides: Iterable[str] = ()) -> Variant:
        """From a TOML file.

        Raises:
            TaskError: a mistake in it, or another task.
        """
        config = read_task_config(path, overrides)
        if not isinstance(config, ImageConfig):
            raise TaskError(f"{path} is a config for {config.task}; compare is for image classification")
        return cls(path.stem, config)

    @property
    def model(self) -> str:
        """Which model of a run is scored: what ships."""
        return "packed" if self.config.plan is not None and self.config.plan.pack else "model"


def run_comparison(variants: Sequence[Variant], seeds: int, folder: Path, *, quiet: bool = False) -> dict[str, Any]:
    """Train and score whatever is not there yet, then put the table together.

    Args:
        variants: the first is what the others are compared to.
        seeds: trainings of each, with seeds 0, 1, ...
        folder: for the runs, `compare.json` and `compare.html`.
        quiet: no bars and no messages.

    Returns:
        The report, which is also in `compare.json`.

    Raises:
        TaskError: a config, or a run in the folder that is of another config.
        Interrupted: Ctrl-C; the same call goes on.
    """
    if len({json.dumps(to_tables(variant.config.data)) for variant in variants}) > 1:
        raise TaskError("the configs differ in [data]; a comparison needs the same images for each")
    report: dict[str, Any] = {}
    done: dict[str, list[dict[str, Any]]] = {variant.name: [] for variant in variants}
    for seed in range(seeds):
        for variant in variants:
            done[variant.name].append(_run(variant, seed, folder, quiet))
        # Written after each seed: a long comparison shows what it has.
        report = {"seeds": seed + 1, "variants": _rows(variants, done, folder)}
        _write(report, folder)
    return report


def _run(variant: Variant, seed: int, folder: Path, quiet: bool) -> dict[str, Any]:
    """The result of one training with one seed; read from its folder if it is there."""
    from tasks.image_classification.evaluate import evaluate_run
    from tasks.image_classification.train import train
    from tasks.training.fitting import read_history

    place = folder / variant.name / str(seed)
    config = replace(variant.config, seed=seed, run_dir=str(place))
    _check_same(config, place)
    if not is_finished(place, packed=variant.model == "packed"):
        if not quiet:
            print(f"\n── {variant.name}, seed {seed}", flush=True)
        resume = is_resumable(place)
        train(config, resume=resume, overwrite=not resume, quiet=quiet)
    result = place / "results" / f"{variant.model}-test.json"
    if not result.is_file():
        evaluate_run(place, model=variant.model, progress=not quiet, report=False)
    scores = json.loads(result.read_text(encoding="utf-8"))
    end = read_history(place / "history.json")[-1]
    return {
        "seed": seed,
        "minutes": end["minutes"],
        "steps": end["steps"],
        **{key: scores[key] for key in ("top1", "top5", "images")},
    }


def _check_same(config: ImageConfig, place: Path) -> None:
    """A run that is there already must be of the same config."""
    if (place / "config.toml").is_file():
        earlier = to_tables(read_task_config(place / "config.toml"))
        if earlier != (wanted := to_tables(config)):
            changed = sorted(key for key in {*earlier, *wanted} if earlier.get(key) != wanted.get(key))
            raise TaskError(
                f"{place} holds a run of another config (differs in {', '.join(changed)}); "
                "take another --folder, or remove it"
            )


def _rows(variants: Sequence[Variant], done: Mapping[str, list[dict[str, Any]]], folder: Path) -> list[dict[str, Any]]:
    rows = []
    base = [run["top1"] for run in done[variants[0].name]]
    for variant in variants:
        runs = done[variant.name]
        mean, half = t_interval([run["top1"] for run in runs])
        top5, top5_half = (None, None) if runs[0]["top5"] is None else t_interval([run["top5"] for run in runs])
        change, change_half = t_interval([run["top1"] - other for run, other in zip(runs, base, strict=True)])
        rows.append(
            {
                "name": variant.name,
                "model": variant.model,
                "top1": mean,
                "top1_half": half,
                "top5": top5,
                "top5_half": top5_half,
                "difference": change,
                "difference_half": change_half,
                "minutes": sum(run["minutes"] for run in runs) / len(runs),
                "runs": runs,
                **_cost(folder / variant.name / "0" / variant.model),
            }
        )
    return rows


def _cost(path: Path) -> dict[str, Any]:
    """Operations and energy of one image."""
    from tasks.image_classification.cost import cost_of
    from tasks.image_classification.model import load_model

    return cost_of(*load_model(path))


def table(report: Mapping[str, Any]) -> str:
    """The comparison as text."""
    width = max(len(row["name"]) for row in report["variants"])
    lines = [" " * width + "".join(f"{head:>{size}}" for head, size in _COLUMNS)]
    for row in report["variants"]:
        cells = zip(cells_of(row), _COLUMNS, strict=True)
        lines.append(row["name"].ljust(width) + "".join(f"{cell:>{size}}" for cell, (_, size) in cells))
    return "\n".join([*lines, note(report)])


_COLUMNS = (
    ("top-1", 16),
    ("to the first", 16),
    ("top-5", 16),
    ("multiply", 11),
    ("add", 11),
    ("shift", 11),
    ("energy", 11),
    ("minutes", 9),
)
HEADS = tuple(head for head, _ in _COLUMNS)


def cells_of(row: Mapping[str, Any]) -> list[str]:
    """One line of the table, without its name."""
    from shiftadd_transformers.cost.report import joules, quantity

    operations = [quantity(row["operations"][kind]) for kind in ("multiply", "add", "shift")]
    return [
        _percent(row["top1"], row["top1_half"], ""),
        _percent(row["difference"], row["difference_half"], "+"),
        _percent(row["top5"], row["top5_half"], ""),
        *operations,
        joules(row["energy"]["total_pj"]),
        f"{row['minutes']:.1f}",
    ]


def note(report: Mapping[str, Any]) -> str:
    """What the numbers mean."""
    images = report["variants"][0]["runs"][0]["images"]
    return (
        f"{report['seeds']} seeds, {images} test images; ± is the 95 % t-interval over seeds, differences are paired "
        "by seed and in points. Operations and energy (45 nm, with memory traffic) are of one image."
    )


def _percent(value: float | None, half: float | None, sign: str) -> str:
    if value is None:  # five classes or fewer have no top five
        return "–"
    return f"{100 * value:{sign}.2f}" + ("" if half is None else f" ± {100 * half:.2f}")


def _write(report: Mapping[str, Any], folder: Path) -> None:
    from tasks.pages import page, section, text
    from tasks.pages import table as html_table

    rows = [[row["name"], *cells_of(row)] for row in report["variants"]]
    body = html_table(["config", *HEADS], rows) + f"<p>{text(note(report))}</p>"
    seeds = [str(run["seed"]) for run in report["variants"][0]["runs"]]
    single = [[row["name"], *(f"{100 * run['top1']:.2f}" for run in row["runs"])] for row in report["variants"]]
    sections = [
        "<h1>Image classifiers side by side</h1>",
        section("Accuracy, operations, energy", body),
        section("Top-1 of each seed", html_table(["config", *seeds], single)),
    ]
    write_text(folder / "compare.json", json.dumps(report, indent=2) + "\n")
    write_text(folder / "compare.html", page("Image classifiers side by side", sections))
