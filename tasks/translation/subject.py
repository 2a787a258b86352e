"""Translation as the subject of a search."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import set_seed

from tasks.search.subject import Quality, Subject
from tasks.training.scoring import validation_loss
from tasks.translation.config import TranslationConfig
from tasks.translation.cost import typical_batch
from tasks.translation.data import load_pairs, save_corpus
from tasks.translation.evaluate import evaluate
from tasks.translation.train import make_material, make_model


def make_subject(config: TranslationConfig, folder: Path) -> Subject:
    """Sentence pairs, a vocabulary, a model with its first weights, and how it is judged.

    Raises:
        TaskError: the data or the model that the config names.
    """
    corpus = load_pairs(config.data)
    save_corpus(corpus, folder / "data")
    set_seed(config.seed)
    model, tokenizer = make_model(config, corpus, folder, resume=(folder / "tokenizer").is_dir())
    material = make_material(model, tokenizer, corpus, config.train, config.seed)
    inputs, lengths = typical_batch(tokenizer, corpus.test)
    greedy = replace(config.decode, beams=1)

    def bleu(network: Any) -> float:
        language = corpus.target_language
        scores, _ = evaluate(network, tokenizer, corpus.validation, greedy, target_language=language, progress=False)
        return scores.bleu

    return Subject(
        model,
        material,
        inputs,
        f"one teacher-forced forward of {lengths[0]} source and {lengths[1]} target tokens, the mean test sentence",
        {
            "loss": Quality("validation loss", lambda network: validation_loss(network, material), "minimise"),
            "bleu": Quality("BLEU", bleu, "maximise"),
        },
        ("bleu", "BLEU"),
    )
