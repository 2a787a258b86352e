"""The `shiftadd` command.

Heavy imports (torch, transformers) happen inside the commands, so that `shiftadd --help` answers at once.
"""

from __future__ import annotations

import sys
import warnings
from functools import reduce
from pathlib import Path
from typing import Annotated

import typer

from tasks.bench.command import bench
from tasks.dispatch import find_config, module_of, read_task_config, run_config, shipped_configs
from tasks.errors import Interrupted, TaskError
from tasks.image_classification.command import compare, predict
from tasks.kernels.commands import profile, tune
from tasks.options import Kernels, Override, Set, compiled_kernels, search_installed

app = typer.Typer(
    name="shiftadd",
    help="Train, score and use transformers that shift and add instead of multiplying.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main() -> None:
    """Entry point: a user's own error is one message and exit code 2; others keep their traceback."""
    warnings.filterwarnings("ignore", message="Recommended: pip install sacremoses")
    try:
        app()
    except TaskError as error:
        fail(str(error))
    except (KeyboardInterrupt, Interrupted) as error:
        print(str(error) or "interrupted", file=sys.stderr)
        raise SystemExit(130) from None


def fail(message: str) -> None:
    """Print one error to stderr and leave with code 2."""
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="A TOML file, or the name of a config that is shipped.")],
    overrides: Override = None,
    set_: Set = None,
    plan: Annotated[
        str | None, typer.Option(help="A plan's file, or one of a search: front.json#3. The same as plan.file=....")
    ] = None,
    resume: Annotated[bool, typer.Option(help="Go on from the last checkpoint of the run.")] = False,
    overwrite: Annotated[bool, typer.Option(help="Throw away an earlier run in the same folder.")] = False,
    score: Annotated[bool, typer.Option(help="Score the test set at the end.")] = True,
) -> None:
    """Train a model as a config says; Ctrl-C leaves a checkpoint to resume from."""
    instead = [f"plan.file={plan}", "plan.rules=[]", "plan.stages=[]"] if plan else []
    settings = [*(overrides or ()), *(set_ or ()), *instead]
    resolved = read_task_config(find_config(config), settings)
    again = " ".join(["shiftadd train", str(config), *settings, "--resume"])
    try:
        run = module_of(resolved, "train").train(resolved, resume=resume, overwrite=overwrite)
    except Interrupted as stopped:
        raise Interrupted(f"{stopped}\nresume with: {again}") from None
    print(f"model: {run.folder / 'model'}")
    if score:
        for name in ("model", "packed"):
            if (run.folder / name / "config.json").is_file():
                report(run.folder, name, None, "test")


@app.command()
def search(
    config: Annotated[Path, typer.Argument(help="A TOML file with [search], or the name of a config that is shipped.")],
    overrides: Override = None,
    set_: Set = None,
    resume: Annotated[bool, typer.Option(help="Go on with the search in the run folder.")] = False,
    overwrite: Annotated[bool, typer.Option(help="Throw away an earlier search in the same folder.")] = False,
    join: Annotated[bool, typer.Option(help="Only evaluate plans of a search that another process runs.")] = False,
) -> None:
    """Find the best operator for each layer under a budget; Ctrl-C leaves everything to resume from."""
    settings = [*(overrides or ()), *(set_ or ())]
    resolved = read_task_config(find_config(config), settings)
    with search_installed():
        from tasks.search.steps import join_search, run_search

    if join:
        join_search(resolved)
        return
    again = " ".join(["shiftadd search", str(config), *settings, "--resume"])
    try:
        run_search(resolved, resume=resume, overwrite=overwrite)
    except Interrupted as stopped:
        raise Interrupted(f"{stopped}\ngo on with: {again}") from None


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="A run folder, or a model folder inside one.")],
    beams: Annotated[
        int | None, typer.Option(min=1, help="Translation: 1 is greedy; the run's config by default.")
    ] = None,
    split: Annotated[str, typer.Option(help="test or validation")] = "test",
    model: Annotated[str, typer.Option(help="Which model of the run: model or packed.")] = "model",
    kernels: Kernels = False,
) -> None:
    """Score a model of a run: BLEU and chrF++, or accuracy; writes the scores and every output beside it."""
    if split not in ("test", "validation"):
        raise TaskError(f"--split must be test or validation, got {split!r}")
    with compiled_kernels(kernels):
        report(run, model, beams, split)


@app.command()
def translate(
    model: Annotated[Path, typer.Argument(help="A run folder, a model folder, or a hub name.")],
    text: Annotated[list[str] | None, typer.Argument(help="Sentences; without any, lines from stdin.")] = None,
    file: Annotated[Path | None, typer.Option(help="A text file, one sentence per line.")] = None,
    beams: Annotated[int, typer.Option(min=1, help="1 is greedy.")] = 4,
    kernels: Kernels = False,
) -> None:
    """Translate sentences, a file, or standard input; one line out for each line in."""
    sentences = read_sentences(text, file)
    from tasks.training.folder import model_folder
    from tasks.translation.config import DecodeConfig
    from tasks.translation.model import load_model
    from tasks.translation.translate import translate as run_translation

    network, tokenizer = load_model(model_folder(model))
    with compiled_kernels(kernels):
        for line in run_translation(
            network, tokenizer, sentences, DecodeConfig(beams=beams), progress=file is not None
        ):
            print(line)


@app.command()
def demo(
    minutes: Annotated[float, typer.Option(help="For everything together, on two cores.")] = 16.0,
    language: Annotated[str, typer.Option(help="Target language, from English.")] = "de",
    folder: Annotated[Path, typer.Option(help="Where everything is written.")] = Path("runs/demo"),
    fresh: Annotated[bool, typer.Option(help="Throw away an earlier demo in the folder.")] = False,
) -> None:
    """The main job on real data: train, convert, fine-tune, pack, score; writes report.json and .html."""
    from tasks.demo import DemoConfig, run_demo

    try:
        run_demo(DemoConfig(minutes, language, str(folder)), fresh=fresh)
    except Interrupted as stopped:
        raise Interrupted(f"{stopped}\ngo on with the same command") from None


@app.command()
def plan(
    model: Annotated[Path, typer.Argument(help="A model folder, or a hub name.")],
    rules: Annotated[Path, typer.Argument(help="A TOML file with [[plan.rules]] tables, such as a training config.")],
    output: Annotated[Path | None, typer.Option(help="Also write the plan as JSON.")] = None,
) -> None:
    """Show which layers of a model would compute how, without training anything."""
    from tasks.config import read_toml, write_text
    from tasks.training.conversion import resolve_stages
    from tasks.training.loading import explained, load_network

    tables = read_toml(rules).get("plan", {})
    stages = [stage.get("rules", []) for stage in tables.get("stages", [])] or [tables.get("rules", [])]
    if not all(stages):
        raise TaskError(f"{rules} has no [[plan.rules]] table")
    with explained("a model", model):
        network = load_network(model)
    plans = resolve_stages(network, stages)
    if output is not None:
        write_text(output, reduce(lambda earlier, later: earlier.then(later), plans).to_json() + "\n")
    for number, resolved in enumerate(plans, 1):
        print((f"stage {number}\n" if len(plans) > 1 else "") + resolved.table())


app.command()(predict)
app.command()(compare)
app.command()(bench)
app.command()(tune)
app.add_typer(profile, name="profile")


@app.command()
def configs() -> None:
    """List the configs that are shipped; their names are accepted by `shiftadd train`."""
    for path in shipped_configs():
        print(f"{path.stem:20} {path.read_text(encoding='utf-8').splitlines()[0].lstrip('# ')}")


def report(run: Path, model: str, beams: int | None, split: str) -> None:
    """Score one model of a run and print it."""
    config = run_config(run)
    if beams is not None and config.task != "translation":
        raise TaskError(f"--beams is for translation; {run} holds a model for {config.task}")
    options = {} if beams is None else {"beams": beams}
    scores = module_of(config, "evaluate").evaluate_run(run, split=split, model=model, **options)
    print(f"{run} {model} {split}\n{scores}")


def read_sentences(text: list[str] | None, file: Path | None) -> list[str]:
    """The sentences to translate, from exactly one of: arguments, file, standard input."""
    if text and file is not None:
        raise TaskError("give either sentences or --file, not both")
    if text:
        return text
    if file is not None:
        if not file.is_file():
            raise TaskError(f"no file {file}")
        return file.read_text(encoding="utf-8").splitlines()
    if sys.stdin.isatty():
        print("type sentences, then Ctrl-D", file=sys.stderr)
    return sys.stdin.read().splitlines()


if __name__ == "__main__":
    main()
