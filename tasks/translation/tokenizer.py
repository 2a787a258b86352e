"""How do two languages share one vocabulary?  A SentencePiece model behind the Marian tokenizer."""

from __future__ import annotations

import contextlib
import io
import json
import re
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tasks.config import write_text
from tasks.errors import TaskError
from tasks.translation.config import TokenizerConfig
from tasks.translation.pairs import Pair


def train_tokenizer(
    pairs: Iterable[Pair],
    config: TokenizerConfig,
    folder: str | Path,
    languages: tuple[str, str] = ("en", "de"),
) -> Any:
    """Train a joint vocabulary and write it as a Marian tokenizer.

    A text too small for `vocab_size` gets the largest vocabulary that it supports.

    Args:
        pairs: training pairs only; held-out text must not shape the vocabulary.
        config: size and character coverage.
        folder: receives source.spm, target.spm, vocab.json.
        languages: codes of source and target, kept in the tokenizer's config.

    Returns:
        A `MarianTokenizer` with `<pad>` as its last piece and `</s>` = 0, `<unk>` = 1.

    Raises:
        TaskError: no text at all.
    """
    from transformers import MarianTokenizer

    texts = [text for pair in pairs for text in pair]
    if not texts:
        raise TaskError("no text to train a vocabulary on")
    model, pieces = train_pieces(texts, config)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("source.spm", "target.spm"):
        (folder / name).write_bytes(model)
    vocabulary = {piece: index for index, piece in enumerate([*pieces, "<pad>"])}
    write_text(folder / "vocab.json", json.dumps(vocabulary, ensure_ascii=False))
    files = [str(folder / name) for name in ("source.spm", "target.spm", "vocab.json")]
    with without_sacremoses():
        tokenizer = MarianTokenizer(*files, source_lang=languages[0], target_lang=languages[1])
    tokenizer.save_pretrained(str(folder))
    return tokenizer


def load_tokenizer(path: str | Path) -> Any:
    """The tokenizer in a model or run folder."""
    from transformers import AutoTokenizer

    with without_sacremoses():
        return AutoTokenizer.from_pretrained(str(path))


@contextlib.contextmanager
def without_sacremoses() -> Iterator[None]:
    """Silence the advice to install sacremoses: it normalises punctuation, and we keep text as it is."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Recommended: pip install sacremoses")
        yield


def train_pieces(texts: list[str], config: TokenizerConfig) -> tuple[bytes, list[str]]:
    """A serialized SentencePiece model and its pieces, in order of their ids."""
    import sentencepiece

    size = config.vocab_size - 1  # <pad> is appended afterwards
    for _ in range(2):
        try:
            model = _train(texts, size, config.character_coverage)
            break
        except RuntimeError as error:
            # Too few slots for the characters of the text: the message names the number that is needed.
            needed = re.search(r"smaller than required_chars\D*\d+\D+(\d+)", str(error))
            if needed is None:
                raise TaskError(f"no vocabulary could be trained: {error}") from error
            size = int(needed.group(1)) + 8
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    return model, [processor.id_to_piece(index) for index in range(processor.get_piece_size())]


def _train(texts: list[str], size: int, coverage: float) -> bytes:
    import sentencepiece

    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=written,
        model_type="unigram",
        vocab_size=size,
        hard_vocab_limit=False,  # a small text ends with fewer pieces instead of an error
        character_coverage=coverage,
        normalization_rule_name="identity",  # references are scored as they are: nothing is rewritten
        eos_id=0,
        unk_id=1,
        pad_id=-1,
        bos_id=-1,
        num_threads=2,
        input_sentence_size=1_000_000,
        shuffle_input_sentence=False,
        minloglevel=2,
    )
    return written.getvalue()
