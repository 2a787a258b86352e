"""Which keys does a translation config have, and what do they mean?  One dataclass per TOML table."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from tasks.errors import TaskError


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
class TrainConfig:
    """`[train]`: how long, how fast, how often.

    Args:
        learning_rate, schedule, warmup_steps: peak, and the curve down from it (`constant` stays).
        epochs, max_steps: the end; `max_steps` wins over `epochs`.
        max_minutes: ends training by the clock instead (`max_steps` is then a cap, `epochs` unused). The
            number of steps is estimated from the measured speed, so that the schedule still reaches its end.
        batch_tokens: padded source and target tokens in one batch.
        max_length: longest source or target in tokens; longer pairs are left out of training.
        eval_steps: validate and save a checkpoint so often.
        keep_checkpoints: how many to keep on disk.
        average_checkpoints: average the weights of the last so many; kept if better on validation than the
            best.
        threads: CPU threads; none leaves PyTorch's choice, which is slower than 1 where other programs
            keep the cores busy.
    """

    learning_rate: float = 1.2e-3
    schedule: Literal["cosine", "inverse_sqrt", "linear", "constant"] = "cosine"
    warmup_steps: int = 100
    epochs: float = 10.0
    max_steps: int | None = None
    max_minutes: float | None = None
    batch_tokens: int = 1024
    gradient_accumulation: int = 1
    max_length: int = 64
    label_smoothing: float = 0.1
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    eval_steps: int = 300
    logging_steps: int = 50
    keep_checkpoints: int = 3
    average_checkpoints: int = 0
    bf16: bool = False
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.learning_rate <= 0 or self.batch_tokens < 1 or self.eval_steps < 1 or self.max_length < 2:
            raise TaskError("train: learning_rate, batch_tokens and eval_steps must be positive, max_length above 1")
        if self.max_minutes is not None and self.max_minutes <= 0:
            raise TaskError("train.max_minutes must be positive")


@dataclass(frozen=True)
class DecodeConfig:
    """`[decode]`: how sentences are searched when validating, evaluating and translating."""

    beams: int = 4
    max_length: int = 96
    length_penalty: float = 1.0
    batch_size: int = 64


@dataclass(frozen=True)
class DistillConfig:
    """`plan.distill`: a dense teacher for the fine-tuning; without `teacher` it is the starting model."""

    teacher: str | None = None
    alpha: float = 0.5
    temperature: float = 2.0


@dataclass(frozen=True)
class PlanConfig:
    """`[plan]`: turn linear layers into shift-add operators and train on.

    Args:
        rules: ordered tables, first match wins: `{role = "mlp.*", op = {kind = "shift", bits = 4}}`.
        distill: learn from a dense teacher.
        pack: also write the packed model.
        protect: keep tied and head layers dense.
    """

    rules: tuple[dict[str, Any], ...] = ()
    distill: DistillConfig | None = None
    pack: bool = True
    protect: bool = True

    def __post_init__(self) -> None:
        if not self.rules:
            raise TaskError("[plan] has no rules; add at least one [[plan.rules]] table, or leave [plan] out")


@dataclass(frozen=True)
class TranslationConfig:
    """The whole config; `run_dir` is where everything about the run is written."""

    run_dir: str = "runs/translation"
    seed: int = 42
    data: DataConfig = field(default_factory=DataConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    plan: PlanConfig | None = None
