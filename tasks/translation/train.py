"""From a config to a trained translation model in a run folder: data, vocabulary, network, training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import set_seed
from transformers.utils.logging import disable_progress_bar

from tasks.errors import TaskError
from tasks.training.fitting import Fit, Material
from tasks.training.folder import prepare_folder
from tasks.training.losses import SmoothedCrossEntropy
from tasks.training.schedule import EachEpoch
from tasks.training.stages import train_model
from tasks.translation.batches import Collator, TokenBatches, encode_pairs
from tasks.translation.config import TrainConfig, TranslationConfig
from tasks.translation.data import load_pairs, save_corpus
from tasks.translation.model import build_model, load_model
from tasks.translation.pairs import Corpus, Pair
from tasks.translation.tokenizer import load_tokenizer, train_tokenizer


@dataclass
class Run:
    """Everything a caller may want to go on with after `train`."""

    folder: Path
    model: Any
    tokenizer: Any
    corpus: Corpus
    fit: Fit


def train(config: TranslationConfig, *, resume: bool = False, overwrite: bool = False, quiet: bool = False) -> Run:
    """Load data, train the vocabulary, train the model, save it.

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
    folder = prepare_folder(config, resume=resume, overwrite=overwrite)
    say = (lambda text: None) if quiet else print
    corpus = load_pairs(config.data)
    save_corpus(corpus, folder / "data")
    say(f"{corpus.report}\n  train {len(corpus.train)}, validation {len(corpus.validation)}, test {len(corpus.test)}")
    set_seed(config.seed)
    model, tokenizer = make_model(config, corpus, folder, resume=resume)
    result = train_model(
        model,
        make_material(model, tokenizer, corpus, config.train, config.seed),
        config,
        folder,
        lambda path: load_model(path)[0],
        pretrained=config.model.pretrained is not None,
        resume=resume,
        quiet=quiet,
    )
    say(f"validation loss {result.validation_loss:.4f} after {result.steps} steps ({result.weights})")
    return Run(folder, result.model, tokenizer, corpus, result)


def make_model(config: TranslationConfig, corpus: Corpus, folder: Path, *, resume: bool = False) -> tuple[Any, Any]:
    """A pretrained model with its tokenizer, or a fresh one with a vocabulary trained on the corpus."""
    if config.model.pretrained is not None:
        return load_model(config.model.pretrained)
    if resume:
        tokenizer = load_tokenizer(folder / "tokenizer")
    else:
        languages = (corpus.source_language, corpus.target_language)
        tokenizer = train_tokenizer(corpus.train, config.tokenizer, folder / "tokenizer", languages)
    return build_model(config.model, tokenizer), tokenizer


def make_material(model: Any, tokenizer: Any, corpus: Corpus, config: TrainConfig, seed: int) -> Material:
    """Batches of token ids for the trainer, whose batch size is 1 because an item is a whole batch.

    Raises:
        TaskError: every pair of a part is too long.
    """
    batches = TokenBatches(_encoded(tokenizer, corpus.train, config, "train"), config.batch_tokens, seed)
    held_out = held_out_material(model, tokenizer, corpus.validation, config, seed)
    return replace(held_out, train=batches, callbacks=(EachEpoch(batches.shuffle),))


def held_out_material(
    model: Any, tokenizer: Any, pairs: Sequence[Pair], config: TrainConfig, seed: int = 0
) -> Material:
    """The same for validation alone.

    Raises:
        TaskError: every pair is too long.
    """
    return Material(
        train=(),
        validation=TokenBatches(_encoded(tokenizer, pairs, config, "validation"), config.batch_tokens, seed),
        collate=Collator(model),
        companion=tokenizer,
        loss=SmoothedCrossEntropy(config.label_smoothing),
    )


def _encoded(
    tokenizer: Any, pairs: Sequence[Pair], config: TrainConfig, part: str
) -> list[tuple[list[int], list[int]]]:
    examples = encode_pairs(tokenizer, pairs, config.max_length)
    if not examples:
        raise TaskError(f"no {part} pair is shorter than train.max_length = {config.max_length} tokens")
    return examples
