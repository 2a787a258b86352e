"""Image classification as the subject of a search."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import set_seed

from tasks.image_classification.batches import prepare
from tasks.image_classification.config import ImageConfig
from tasks.image_classification.data import load_images, save_summary
from tasks.image_classification.evaluate import evaluate
from tasks.image_classification.model import relabelled
from tasks.image_classification.train import make_material, make_model
from tasks.search.subject import Quality, Subject
from tasks.training.scoring import validation_loss


def make_subject(config: ImageConfig, folder: Path) -> Subject:
    """Images, a model with its first weights, and how it is judged.

    Raises:
        TaskError: the data or the model that the config names.
    """
    corpus = load_images(config.data)
    save_summary(corpus, folder / "data")
    set_seed(config.seed)
    model, processor, _ = make_model(config, corpus)
    material = make_material(model, processor, corpus, config)
    validation = relabelled(corpus.validation, corpus.classes, model)

    def accuracy(network: Any) -> float:
        batch_size = config.train.batch_size
        return 100 * evaluate(network, processor, validation, batch_size=batch_size, progress=False)[0].top1

    return Subject(
        model,
        material,
        {"pixel_values": prepare(processor, [validation.image(0)])},
        "one image",
        {
            "loss": Quality("validation loss", lambda network: validation_loss(network, material), "minimise"),
            "accuracy": Quality("top-1", accuracy, "maximise", "%"),
        },
        ("top1", "top-1"),
        100.0,
    )
