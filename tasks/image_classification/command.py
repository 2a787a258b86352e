"""`shiftadd predict` and `shiftadd compare`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from tasks.errors import Interrupted, TaskError
from tasks.options import Kernels, Set, compiled_kernels


def predict(
    model: Annotated[Path, typer.Argument(help="A run folder, a model folder, or a hub name.")],
    images: Annotated[list[Path], typer.Argument(help="Image files, and folders with images.")],
    top: Annotated[int, typer.Option(min=1, help="How many classes to print.")] = 3,
    kernels: Kernels = False,
) -> None:
    """Classify images; one line each, with the likeliest classes. Exit code 2 if one cannot be read."""
    from tasks.image_classification.model import load_model
    from tasks.image_classification.predict import image_files
    from tasks.image_classification.predict import predict as run_prediction
    from tasks.training.folder import model_folder

    files = image_files(images)
    network, processor = load_model(model_folder(model))
    failed = False
    with compiled_kernels(kernels):
        for prediction in run_prediction(network, processor, files, top=top):
            failed |= bool(prediction.error)
            print(prediction, file=sys.stderr if prediction.error else sys.stdout)
    if failed:
        raise typer.Exit(2)


def compare(
    configs: Annotated[
        list[Path], typer.Argument(help="TOML files, or names of shipped configs; the first is the base.")
    ],
    seeds: Annotated[int, typer.Option(min=1, help="Train each so often, with seeds 0, 1, ...")] = 5,
    folder: Annotated[Path, typer.Option(help="Where everything is written; what is there is not done again.")] = Path(
        "runs/compare"
    ),
    set_: Set = None,
) -> None:
    """Train configs with several seeds and compare accuracy, operations and energy."""
    from tasks.dispatch import find_config
    from tasks.image_classification.compare import Variant, run_comparison, table

    names = [path.stem for path in configs]
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise TaskError(f"two configs are called {', '.join(doubled)}; their file names tell them apart")
    variants = [Variant.read(find_config(path), set_ or ()) for path in configs]
    try:
        print(table(run_comparison(variants, seeds, folder)))
    except Interrupted as stopped:
        raise Interrupted(f"{stopped}\ngo on with the same command") from None
    print(folder / "compare.html")
