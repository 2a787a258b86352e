"""From a config to a trained image classifier in a run folder: data, network, training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import set_seed
from transformers.utils.logging import disable_progress_bar

from tasks.image_classification.batches import Collator, PreparedImages
from tasks.image_classification.config import ImageConfig
from tasks.image_classification.data import load_images, save_summary
from tasks.image_classification.images import ImageCorpus
from tasks.image_classification.model import build_model, load_model, load_pretrained, relabelled
from tasks.training.fitting import Fit, Material
from tasks.training.folder import prepare_folder
from tasks.training.losses import SmoothedCrossEntropy
from tasks.training.schedule import EachEpoch
from tasks.training.stages import train_model


@dataclass
class Run:
    """Everything a caller may want to go on with after `train`."""

    folder: Path
    model: Any
    processor: Any
    corpus: ImageCorpus
    fit: Fit


def train(config: ImageConfig, *, resume: bool = False, overwrite: bool = False, quiet: bool = False) -> Run:
    """Load data, train the model, save it with its image processor.

    Args:
        config: the whole config.
        resume: go on from the last checkpoint of the run folder.
        overwrite: throw an earlier run in the same folder away.
        quiet: no progress bar and no messages.

    Returns:
        The finished run.

    Raises:
        TaskError: anything in the config or the data that the user can put right.
        Interrupted: Ctrl-C; a resumable checkpoint has been written.
    """
    disable_progress_bar()  # transformers draws one for every checkpoint; ours shows the whole training
    say = (lambda text: None) if quiet else print
    folder = prepare_folder(config, resume=resume, overwrite=overwrite)
    corpus = load_images(config.data)
    save_summary(corpus, folder / "data")
    say(corpus)
    set_seed(config.seed)
    model, processor, knows = make_model(config, corpus)
    result = train_model(
        model,
        make_material(model, processor, corpus, config),
        config,
        folder,
        lambda path: load_model(path)[0],
        pretrained=knows,
        resume=resume,
        quiet=quiet,
    )
    say(f"validation loss {result.validation_loss:.4f} after {result.steps} steps ({result.weights})")
    return Run(folder, result.model, processor, corpus, result)


def make_model(config: ImageConfig, corpus: ImageCorpus) -> tuple[Any, Any, bool]:
    """(model, image processor, whether the model knows the classes already)."""
    if config.model.pretrained is not None:
        return load_pretrained(config.model.pretrained, corpus.classes)
    return *build_model(config.model, corpus.classes, corpus.train), False


def make_material(model: Any, processor: Any, corpus: ImageCorpus, config: ImageConfig) -> Material:
    """Prepared images, with the model's class numbers."""
    train, validation = (relabelled(part, corpus.classes, model) for part in (corpus.train, corpus.validation))
    prepared = PreparedImages(train, processor, seed=config.seed)
    return Material(
        train=prepared,
        validation=PreparedImages(validation, processor),
        collate=Collator(len(corpus.classes), config.augment),
        companion=processor,
        loss=SmoothedCrossEntropy(config.train.label_smoothing),
        batch_size=config.train.batch_size,
        callbacks=(EachEpoch(prepared.begin),),
    )
