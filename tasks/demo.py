"""The main job on real data, end to end: train, convert, fine-tune, pack, reload, score, report.

Every step leaves its result in the demo's folder and is skipped if it is there already, so an interrupted demo goes on
where it stopped when the same command is given again.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tasks.config import write_text
from tasks.errors import TaskError
from tasks.options import search_installed
from tasks.training.config import DistillConfig, PlanConfig
from tasks.translation.config import DataConfig, DecodeConfig, ModelConfig, TrainConfig, TranslationConfig

# Share of the demo's minutes for each training; the rest goes to data, scoring and the report.
DENSE_SHARE, HYBRID_SHARE = 0.55, 0.22
SAMPLES = 12
EVALUATIONS = 6.0
"""Plans that the search tries, per minute of the demo."""

# Shifts where most weights are, an adder where a distance does for a query, products where they matter: the attention
# output and the cross-attention values, which feed the residual stream directly.
HYBRID_RULES: tuple[dict[str, Any], ...] = (
    {"match": "*.encoder_attn.[vo]*_proj", "op": {"kind": "dense"}},
    {"role": "mlp.*", "op": {"kind": "shift", "bits": 4}},
    {"match": "model.encoder.*", "role": "attn.q", "layers": "-1", "op": {"kind": "adder"}},
    {"role": "attn.[qk]", "op": {"kind": "shift", "bits": 4}},
    {"role": "attn.v", "op": {"kind": "shift", "bits": 4, "terms": 2}},
)


@dataclass(frozen=True)
class DemoConfig:
    """What the demo's command line says.

    Args:
        minutes: For everything together, on two cores.
        language: Target language, from English.
        folder: Where all results go.
    """

    minutes: float = 16.0
    language: str = "de"
    folder: str = "runs/demo"

    def __post_init__(self) -> None:
        if not 0.5 <= self.minutes <= 1000:
            raise TaskError(f"--minutes must lie between 0.5 and 1000, not {self.minutes:g}")

    @property
    def test_sentences(self) -> int:
        """Scoring takes a few seconds per hundred sentences and model; a short demo scores fewer."""
        return max(25, min(500, int(50 * self.minutes)))


def run_demo(config: DemoConfig, *, fresh: bool = False, quiet: bool = False) -> dict[str, Any]:
    """Run the demo, or what is left of it.

    Args:
        config: Minutes, language, folder.
        fresh: Throw an earlier demo in the folder away.
        quiet: No bars and no messages.

    Returns:
        The report, which is also in `report.json` and `report.html`.

    Raises:
        TaskError: The folder holds another demo, or a step fails.
        Interrupted: Ctrl-C; the same command goes on.
    """
    with search_installed():
        from tasks.translation.quick_search import search_trained

    folder = Path(config.folder)
    _claim(folder, config, fresh)
    dense, hybrid = dense_config(config), hybrid_config(config)
    _train(dense, "1/5  training a dense English model", quiet)
    _train(hybrid, "2/5  converting and fine-tuning it with distillation", quiet)
    _say("3/5  scoring; the packed model is reloaded in a fresh process", quiet)
    scores = {
        name: _score(run, model, quiet)
        for name, run, model in (
            ("dense", dense.run_dir, "model"),
            ("latent", hybrid.run_dir, "model"),
            ("packed", hybrid.run_dir, "packed"),
        )
    }
    _say("4/5  searching for plans of the dense model: what each layer bears without training", quiet)
    front = search_trained(
        dense, Path(config.folder, "search"), evaluations=max(12, round(config.minutes * EVALUATIONS)), quiet=quiet
    )
    _say("5/5  counting operations and energy", quiet)
    report = build_report(config, dense, hybrid, scores) | {"search": front}
    _write(folder, report)
    if not quiet:
        print(summary(report))
    return report


def dense_config(config: DemoConfig) -> TranslationConfig:
    """A small Marian trained from scratch on the machine's own message catalogs."""
    return TranslationConfig(
        run_dir=f"{config.folder}/dense",
        data=DataConfig(source=f"auto:{config.language}", test_limit=config.test_sentences),
        train=TrainConfig(max_minutes=config.minutes * DENSE_SHARE, eval_steps=_eval_steps(config)),
        decode=DecodeConfig(beams=4 if config.minutes >= 10 else 1),
    )


def hybrid_config(config: DemoConfig) -> TranslationConfig:
    """The dense model as start and as teacher."""
    dense = dense_config(config)
    return TranslationConfig(
        run_dir=f"{config.folder}/hybrid",
        data=dense.data,
        decode=dense.decode,
        model=ModelConfig(pretrained=f"{dense.run_dir}/model"),
        train=TrainConfig(
            max_minutes=config.minutes * HYBRID_SHARE,
            eval_steps=_eval_steps(config),
            learning_rate=5e-4,
            warmup_steps=50,
        ),
        plan=PlanConfig(rules=HYBRID_RULES, distill=DistillConfig()),
    )


def build_report(
    config: DemoConfig,
    dense: TranslationConfig,
    hybrid: TranslationConfig,
    scores: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """Put scores, sizes, operation counts and energy together."""
    from tasks.translation.cost import typical_batch
    from tasks.translation.data import load_split
    from tasks.translation.model import load_model

    places = {"dense": Path(dense.run_dir, "model"), "latent": Path(hybrid.run_dir, "model")}
    places["packed"] = Path(hybrid.run_dir, "packed")
    loaded = {name: load_model(path) for name, path in places.items()}
    tokenizer = loaded["dense"][1]
    batch, lengths = typical_batch(tokenizer, load_split(Path(dense.run_dir, "data"), "test"))
    costs, baselines = _costs({name: model for name, (model, _) in loaded.items()}, batch)
    return {
        "title": f"English → {config.language}: a translation model that shifts and adds",
        "data": json.loads(Path(dense.run_dir, "data", "report.json").read_text(encoding="utf-8")),
        "models": [_model_row(name, places[name], scores[name], costs[name]) for name in places],
        "baselines": baselines,
        "cost_input": f"One teacher-forced forward of {lengths[0]} source and {lengths[1]} target tokens, the mean "
        "test sentence; 45 nm table, weights read from DRAM once, activations through the buffer.",
        "plan": _plan_summary(loaded["dense"][0]),
        "samples": _samples(scores),
        "training": {"dense": _history(dense), "hybrid (fine-tuning)": _history(hybrid)},
        "settings": asdict(config),
    }


def summary(report: Mapping[str, Any]) -> str:
    """The result as a few lines of text."""
    lines = [f"{'':8}{'BLEU':>7}{'chrF++':>8}{'size':>10}{'multiply':>11}{'add':>11}{'shift':>11}{'energy':>11}"]
    for m in report["models"]:
        ops = [f"{m['operations'][kind] / 1e6:>9.1f} M" for kind in ("multiply", "add", "shift")]
        energy = f"{m['energy']['total_uj']:>8.1f} µJ"
        size = f"{m['bytes'] / 1e6:>7.2f} MB"
        lines.append(f"{m['name']:8}{m['bleu']:>7.2f}{m['chrf']:>8.2f}{size}{''.join(ops)}{energy}")
    first = report["models"][0]
    return "\n".join([*lines, first["bleu_signature"], first["chrf_signature"], report["cost_input"]])


def _claim(folder: Path, config: DemoConfig, fresh: bool) -> None:
    """Remember what this folder's demo is; go on with the same one, refuse another."""
    state = folder / "demo.json"
    if fresh:
        shutil.rmtree(folder, ignore_errors=True)
    if state.is_file():
        earlier = json.loads(state.read_text(encoding="utf-8"))
        if earlier != asdict(config):
            raise TaskError(
                f"{folder} holds a demo with other settings ({earlier}); use --fresh to start anew, "
                "or --folder for another place"
            )
    write_text(state, json.dumps(asdict(config)) + "\n")


def _train(config: TranslationConfig, title: str, quiet: bool) -> None:
    from tasks.training.checkpoints import checkpoints
    from tasks.translation.train import train

    folder = Path(config.run_dir)
    finished = [folder / "model"] + ([folder / "packed"] if config.plan else [])
    if all((path / "config.json").is_file() for path in finished):
        return
    _say(title, quiet)
    resume = bool(checkpoints(folder / "checkpoints"))
    train(config, resume=resume, overwrite=not resume, quiet=quiet)


def _score(run: str, model: str, quiet: bool) -> dict[str, Any]:
    """Score a saved model in a process of its own, as a user would who was handed the folder."""
    if _newest_result(run, model) is None:
        command = [sys.executable, "-m", "tasks.cli", "evaluate", run, "--model", model]
        finished = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE if quiet else None)
        if finished.returncode:
            errors = (finished.stderr or b"").decode(errors="replace").strip()
            raise TaskError(f"scoring {run} ({model}) failed: {errors or 'see above'}")
    newest = _newest_result(run, model)
    if newest is None:
        raise TaskError(f"scoring {run} ({model}) left no result that is newer than the model")
    return {**json.loads(newest.read_text(encoding="utf-8")), "tsv": str(newest.with_suffix(".tsv"))}


def _newest_result(run: str, model: str) -> Path | None:
    """The latest score of a model on the test set; None if there is none since the model was saved."""
    results = sorted(Path(run, "results").glob(f"{model}-test-*.json"), key=lambda path: path.stat().st_mtime)
    saved = Path(run, model, "config.json").stat().st_mtime
    return results[-1] if results and results[-1].stat().st_mtime >= saved else None


def _costs(models: Mapping[str, Any], batch: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Cost of each model, and the dense model at four widths beside the packed one."""
    from shiftadd_transformers.cost import compare, count_ops

    reports = {name: count_ops(model, **batch) for name, model in models.items()}
    columns = dict(compare(reports["dense"]).columns)
    del columns["actual"]
    rows = {f"dense {name}": _cost_row(column) for name, column in columns.items()}
    return {name: _cost_row(r) for name, r in reports.items()}, rows | {"packed": _cost_row(reports["packed"])}


def _cost_row(report: Any) -> dict[str, Any]:
    energy, total = report.energy(), report.total
    parts = {"compute_uj": energy.compute_pj / 1e6, "memory_uj": energy.memory_pj / 1e6}
    return {
        "operations": asdict(total.counts),
        "weight_bytes": total.weight_bytes,
        "energy": {"table": energy.table, **parts, "total_uj": sum(parts.values())},
    }


def _model_row(name: str, folder: Path, scores: Mapping[str, Any], cost: Mapping[str, Any]) -> dict[str, Any]:
    from shiftadd_transformers.hf import folder_bytes

    metrics = {key: scores[key] for key in ("bleu", "bleu_signature", "chrf", "chrf_signature", "beams")}
    return {"name": name, **metrics, "bytes": folder_bytes(folder), **cost}


def _plan_summary(dense_model: Any) -> dict[str, Any]:
    from shiftadd_transformers import make_plan

    plan = make_plan(dense_model, HYBRID_RULES)
    modules = []
    for name, entry in plan.entries.items():
        parts = name.removeprefix("model.").split(".layers.")
        if len(parts) == 2:
            index, _, column = parts[1].partition(".")
            modules.append({"row": f"{parts[0]} {index}", "column": column, "kind": entry.spec.kind})
    return {"summary": plan.summary(), "modules": modules, "entries": plan.to_dict()}


def _samples(scores: Mapping[str, Mapping[str, Any]]) -> list[dict[str, str]]:
    firsts = [s["samples"][:SAMPLES] for s in scores.values()]
    return [
        {"source": row[0]["source"], "reference": row[0]["reference"]}
        | {name: sample["translation"] for name, sample in zip(scores, row, strict=True)}
        for row in zip(*firsts, strict=True)
    ]


def _history(config: TranslationConfig) -> list[dict[str, float]]:
    from tasks.drawing import validation_points
    from tasks.training.fitting import read_history

    return validation_points(read_history(Path(config.run_dir, "history.json")))


def _write(folder: Path, report: Mapping[str, Any]) -> None:
    from tasks.report import render

    write_text(folder / "report.json", json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    write_text(folder / "report.html", render(report))
    print(f"{folder / 'report.html'}")


def _eval_steps(config: DemoConfig) -> int:
    return 250 if config.minutes >= 5 else 50


def _say(text: str, quiet: bool) -> None:
    if not quiet:
        print(f"\n── {text}", flush=True)
