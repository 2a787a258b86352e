"""From a `[data]` table to a cleaned corpus in three parts: the one door to every source of parallel text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from tasks.config import write_text
from tasks.errors import TaskError
from tasks.translation import catalogs, cldr
from tasks.translation.clean import clean_pairs
from tasks.translation.config import DataConfig
from tasks.translation.files import SUFFIXES, read_pairs, read_parallel
from tasks.translation.hub import read_hub
from tasks.translation.pairs import Corpus, Pair, Report
from tasks.translation.split import cut, share, template

ENOUGH_CATALOGS = 5000  # pairs below which `auto:` prefers CLDR


def load_pairs(config: DataConfig) -> Corpus:
    """Read, clean and cut a corpus.

    Args:
        config: the `[data]` table.

    Returns:
        Train, validation and test pairs and the report on what was dropped.

    Raises:
        TaskError: anything the user can put right: unknown language, broken line, empty corpus, no network.
    """
    config = _with_languages(config)
    parts, report = _read(config)
    train = _cleaned(parts["train"], config, report)
    if not train:
        raise TaskError(f"the corpus is empty after cleaning ({report})")
    held = {name: _cleaned(parts[name], config, Report(name)) for name in ("validation", "test") if name in parts}
    return _cut(train, held, config, report)


def save_corpus(corpus: Corpus, folder: str | Path) -> None:
    """Write the held-out parts and the report, so that a later evaluation scores the same sentences."""
    for name in ("validation", "test"):
        write_pairs(Path(folder) / f"{name}.jsonl", getattr(corpus, name))
    write_text(Path(folder) / "report.json", json.dumps(corpus.summary(), indent=2, ensure_ascii=False) + "\n")


def write_pairs(path: str | Path, pairs: Iterable[Pair]) -> None:
    """Pairs as JSONL with the columns `source` and `target`."""
    write_text(path, "".join(json.dumps(pair._asdict(), ensure_ascii=False) + "\n" for pair in pairs))


def load_split(folder: str | Path, name: str) -> list[Pair]:
    """A held-out part that `save_corpus` wrote."""
    return read_pairs(str(Path(folder) / f"{name}.jsonl"), DataConfig())


def _with_languages(config: DataConfig) -> DataConfig:
    """Fill in the target language that `gettext:de` already names."""
    kind, colon, language = config.source.partition(":")
    if not colon or kind not in ("gettext", "cldr", "auto"):
        return config
    if not re.fullmatch(r"[A-Za-z]{2,3}([_-][A-Za-z0-9]+)*(@\w+)?", language):
        raise TaskError(f"data.source = {config.source!r}: expected a language code as in '{kind}:de'")
    return replace(config, target_language=language)


def _read(config: DataConfig) -> tuple[dict[str, list[Pair]], Report]:
    """Raw pairs of each part, from whichever source is named."""
    kind, _, rest = config.source.partition(":")
    if kind == "gettext":
        pairs, report = catalogs.harvest(rest, config.source_language, config.locale_dirs)
    elif kind == "cldr":
        pairs, report = cldr.compose(rest, config.source_language)
    elif kind == "auto":
        pairs, report = _auto(rest, config)
    elif kind == "hub":
        parts = read_hub(rest, config)
        return parts, Report(f"hub data set {rest}", read=len(parts["train"]))
    else:
        pairs, report = _files(config)
    return {"train": pairs, **_own_parts(config)}, report


def _files(config: DataConfig) -> tuple[list[Pair], Report]:
    if config.source_file and config.target_file:
        pairs = read_parallel(config.source_file, config.target_file)
        return pairs, Report(f"{config.source_file} and {config.target_file}", read=len(pairs))
    if not config.source:
        raise TaskError(
            "data.source is not set: gettext:<lang>, cldr:<lang>, auto:<lang>, hub:<name>, or a file "
            f"({', '.join(SUFFIXES)}); for two text files set both data.source_file and data.target_file"
        )
    pairs = read_pairs(config.source, config)
    return pairs, Report(config.source, read=len(pairs))


def _auto(language: str, config: DataConfig) -> tuple[list[Pair], Report]:
    """Catalogs where they hold enough, CLDR phrases elsewhere; the report says which and why."""
    try:
        raw, report = catalogs.harvest(language, config.source_language, config.locale_dirs)
        found = len(_cleaned(raw, config, Report("count")))
    except TaskError:
        raw, report, found = [], Report(""), 0
    if found >= ENOUGH_CATALOGS:
        report.notes.append(f"auto: message catalogs ({found} pairs)")
        return raw, report
    pairs, report = cldr.compose(language, config.source_language)
    report.notes.append(f"auto: CLDR, because catalogs give only {found} pairs (fewer than {ENOUGH_CATALOGS})")
    return pairs, report


def _own_parts(config: DataConfig) -> dict[str, list[Pair]]:
    named = {"validation": config.validation, "test": config.test}
    return {name: read_pairs(path, config) for name, path in named.items() if path is not None}


def _cleaned(pairs: list[Pair], config: DataConfig, report: Report) -> list[Pair]:
    catalog = config.source.split(":")[0] in ("gettext", "cldr", "auto")
    return clean_pairs(
        pairs,
        report,
        strict=config.clean == "strict" or (config.clean == "auto" and catalog),
        languages=(config.source_language, config.target_language or ""),
        max_chars=config.max_chars,
        max_ratio=config.max_ratio,
    )


def _cut(train: list[Pair], held: dict[str, list[Pair]], config: DataConfig, report: Report) -> Corpus:
    """Cut off what is not given, and take sentences of given parts out of the training text."""
    sizes = (
        0 if "validation" in held else share(len(train), config.validation_fraction, config.validation_limit),
        0 if "test" in held else share(len(train), config.test_fraction, config.test_limit),
    )
    key = template if config.split == "template" else str
    given = {key(pair.source) for pairs in held.values() for pair in pairs}
    rest = [pair for pair in train if key(pair.source) not in given] if given else train
    report.dropped["pattern of a given held-out sentence"] += len(train) - len(rest)
    kept, validation, test = cut(rest, sizes, key)
    used = len(kept) + len(validation) + len(test)
    report.dropped["pattern of a held-out sentence"] += len(rest) - used
    report.dropped += type(report.dropped)()  # drops the reasons that never occurred
    limited = kept if config.max_pairs is None else kept[: config.max_pairs]
    return Corpus(
        train=limited,
        validation=held.get("validation", validation),
        test=held.get("test", test),
        source_language=config.source_language,
        target_language=config.target_language or "",
        report=report,
    )
