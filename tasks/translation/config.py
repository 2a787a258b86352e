"""Which keys does a translation config have, and what do they mean?  One dataclass per TOML table."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from tasks.errors import TaskError
from tasks.search.config import SearchConfig
from tasks.training import config as training


@dataclass(frozen=True)
class DataConfig:
    """`[data]`: where the parallel text comes from and how it is cut.

    Args:
        source: `gettext:de`, `cldr:de`, `auto:de`, `hub:<dataset>`, or a .jsonl, .tsv, .csv or .parquet file.
        source_file, target_file: instead of `source`, two text files whose lines correspond.
        source_language, target_language: language codes; the target is read from `gettext:<lang>` by itself.
        source_column, target_column: names of the columns; guessed where only one reading is possible.
        subset: configuration name of a hub data set.
        train_split, validation_split, test_split: split names of a hub data set.
        validation, test: files of their own, in the format of `source`; otherwise cut from the training text.
        validation_fraction, test_fraction, validation_limit, test_limit: size of what is cut.
        split: `template` keeps messages that differ in numbers, names or placeholders only on one side.
        clean: `strict` also drops untranslated, markup-only and unbalanced pairs; `auto` is strict for
            catalogs.
        max_pairs: take at most so many training pairs.
        max_chars: longest source or target.
        max_ratio: largest ratio of the two lengths.
        locale_dirs: folders with message catalogs; empty means the machine's own.
    """

    source: str = ""
    source_file: str | None = None
    target_file: str | None = None
    source_language: str = "en"
    target_language: str | None = None
    source_column: str | None = None
    target_column: str | None = None
    subset: str | None = None
    train_split: str = "train"
    validation_split: str | None = None
    test_split: str | None = None
    validation: str | None = None
    test: str | None = None
    validation_fraction: float = 0.05
    test_fraction: float = 0.05
    validation_limit: int = 500
    test_limit: int = 500
    split: Literal["template", "source"] = "template"
    clean: Literal["auto", "strict", "light"] = "auto"
    max_pairs: int | None = None
    max_chars: int = 300
    max_ratio: float = 3.0
    locale_dirs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.validation_fraction + self.test_fraction < 1:
            raise TaskError("data.validation_fraction + data.test_fraction must lie between 0 and 1")
        if self.validation_limit < 1 or self.test_limit < 1:
            raise TaskError("data.validation_limit and data.test_limit must be at least 1")


@dataclass(frozen=True)
class TokenizerConfig:
    """`[tokenizer]`: one SentencePiece vocabulary for both languages; shrinks where text is scarce."""

    vocab_size: int = 4000
    character_coverage: float = 1.0


@dataclass(frozen=True)
class ModelConfig:
    """`[model]`: a Marian transformer of this size, or `pretrained`: a seq2seq folder or hub name.

    The defaults suit minutes on two cores; a long training of a larger model wants `dropout`. `init_std` is
    the deviation of all initial weights: Marian normalises after each residual sum, and such a network leaves its
    first plateau sooner the smaller its branches start.
    """

    pretrained: str | None = None
    d_model: int = 128
    encoder_layers: int = 3
    decoder_layers: int = 3
    ffn: int = 512
    heads: int = 4
    dropout: float = 0.0
    attention_dropout: float = 0.0
    activation: str = "relu"
    max_positions: int = 256
    init_std: float = 0.02

    def __post_init__(self) -> None:
        if self.d_model % self.heads:
            raise TaskError(f"model.d_model ({self.d_model}) must be a multiple of model.heads ({self.heads})")


@dataclass(frozen=True)
class TrainConfig(training.TrainConfig):
    """`[train]`: what every task has, and batches of equal work.

    Args:
        batch_tokens: padded source and target tokens in one batch.
        max_length: longest source or target in tokens; longer pairs are left out of training.
    """

    batch_tokens: int = 1024
    max_length: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_tokens < 1 or self.max_length < 2:
            raise TaskError("train: batch_tokens must be positive, max_length above 1")


@dataclass(frozen=True)
class DecodeConfig:
    """`[decode]`: how sentences are searched when validating, evaluating and translating."""

    beams: int = 4
    max_length: int = 96
    length_penalty: float = 1.0
    batch_size: int = 64


@dataclass(frozen=True)
class TranslationConfig:
    """The whole config; `run_dir` is where everything about the run is written."""

    task: Literal["translation"] = "translation"
    run_dir: str = "runs/translation"
    seed: int = 42
    data: DataConfig = field(default_factory=DataConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    plan: training.PlanConfig | None = None
    search: SearchConfig | None = None
