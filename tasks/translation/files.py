"""How are pairs read from a user's own file: JSONL, TSV, CSV, parquet, or two text files side by side?"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tasks.errors import TaskError, nearest
from tasks.translation.config import DataConfig
from tasks.translation.pairs import Pair

_NAMES = (
    ("source", "target"),
    ("src", "tgt"),
    ("src", "trg"),
    ("input", "output"),
    ("sentence1", "sentence2"),
)
SUFFIXES = (".jsonl", ".json", ".tsv", ".csv", ".parquet")

Row = Mapping[str, Any]


def read_pairs(path: str, config: DataConfig) -> list[Pair]:
    """Pairs of one file, in its order.

    Args:
        path: a .jsonl, .json (one object per line), .tsv, .csv or .parquet file.
        config: column names and languages.

    Returns:
        At least one pair.

    Raises:
        TaskError: no such file, a broken line (with its number), columns that cannot be told apart, nothing
            in it.
    """
    rows = _rows(_existing(path), config)
    pairs = list(pairs_from_rows(rows, config, path))
    if not pairs:
        raise TaskError(f"{path} holds no sentence pairs")
    return pairs


def read_parallel(source_path: str, target_path: str) -> list[Pair]:
    """Pairs of two text files whose lines correspond.

    Raises:
        TaskError: a file is missing or empty, or the numbers of lines differ.
    """
    sources, targets = (_text(_existing(path)).splitlines() for path in (source_path, target_path))
    if len(sources) != len(targets):
        raise TaskError(
            f"{source_path} has {len(sources)} lines but {target_path} has {len(targets)}; "
            "line n of one must be the translation of line n of the other"
        )
    if not sources:
        raise TaskError(f"{source_path} holds no sentence pairs")
    return [Pair(source, target) for source, target in zip(sources, targets, strict=True)]


def pairs_from_rows(rows: Iterable[tuple[str, Row]], config: DataConfig, origin: str) -> Iterator[Pair]:
    """Pick source and target out of records.

    Args:
        rows: (place for messages, record).
        config: column names and languages.
        origin: file or data set, for messages.
    """
    names: tuple[str, str] | None = None
    for place, row in rows:
        record = row["translation"] if isinstance(row.get("translation"), Mapping) else row
        names = names or choose_columns(record, config, origin)
        try:
            source, target = (record[name] for name in names)
        except KeyError as error:
            raise TaskError(f"{place}: no column {error}; it has {_listing(record)}") from error
        if not isinstance(source, str) or not isinstance(target, str):
            raise TaskError(f"{place}: {names[0]!r} and {names[1]!r} must both be texts")
        yield Pair(source, target)


def choose_columns(record: Row, config: DataConfig, origin: str) -> tuple[str, str]:
    """Names of both columns: as configured, else language codes, usual names, or the only two texts.

    Raises:
        TaskError: a configured column is missing, or more than one reading is possible.
    """
    texts = [name for name, value in record.items() if isinstance(value, str)]
    languages = (config.source_language, config.target_language)
    found = next((pair for pair in (languages, *_NAMES) if set(pair) <= set(texts)), None)
    if found is None and config.source_language in texts and len(texts) == 2:
        found = (config.source_language, next(name for name in texts if name != config.source_language))
    if found is None and len(texts) == 2:
        found = (texts[0], texts[1])
    chosen = (config.source_column or (found and found[0]), config.target_column or (found and found[1]))
    for name in (config.source_column, config.target_column):
        if name is not None and name not in record:
            raise TaskError(f"{origin}: no column {name!r}{nearest(name, record)}")
    if chosen[0] is None or chosen[1] is None or chosen[0] == chosen[1]:
        few = "only one text column" if len(texts) == 1 else "cannot tell which columns are source and target"
        raise TaskError(f"{origin}: {few}; columns: {_listing(record)}. Set data.source_column and data.target_column")
    return chosen[0], chosen[1]


def _rows(path: Path, config: DataConfig) -> Iterator[tuple[str, Row]]:
    if path.suffix in (".jsonl", ".json"):
        return _jsonl(path)
    if path.suffix in (".tsv", ".csv"):
        return _table(path, config)
    if path.suffix == ".parquet":
        return _parquet(path)
    raise TaskError(
        f"{path}: unknown kind of file; one of {', '.join(SUFFIXES)}, or two text files as "
        "data.source_file and data.target_file"
    )


def _jsonl(path: Path) -> Iterator[tuple[str, Row]]:
    for number, line in enumerate(_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise TaskError(
                f"{path}:{number}: not valid JSON ({error.msg}); one object per line is expected"
            ) from error
        if not isinstance(row, dict):
            raise TaskError(f'{path}:{number}: expected an object such as {{"en": ..., "de": ...}}')
        yield f"{path}:{number}", row


def _table(path: Path, config: DataConfig) -> Iterator[tuple[str, Row]]:
    """Lines of a table; TSV has no quoting.  Without a known name in its first line, that line is data."""
    lines = _text(path).splitlines()
    quoting = (
        {"delimiter": ",", "quoting": csv.QUOTE_MINIMAL}
        if path.suffix == ".csv"
        else {
            "delimiter": "\t",
            "quoting": csv.QUOTE_NONE,
        }
    )
    reader = csv.reader(lines, **quoting)  # type: ignore[arg-type]
    header: list[str] | None = None
    for cells in reader:
        if not cells:
            continue
        if header is None:
            named = _is_header(cells, config)
            header = cells if named else [f"column {i}" for i in range(1, len(cells) + 1)]
            if named:
                continue
        if len(cells) != len(header):
            raise TaskError(f"{path}:{reader.line_num}: {len(cells)} columns where {len(header)} are expected")
        yield f"{path}:{reader.line_num}", dict(zip(header, cells, strict=True))


def _is_header(cells: list[str], config: DataConfig) -> bool:
    configured = {config.source_column, config.target_column} - {None}
    known = {name for pair in _NAMES for name in pair} | {config.source_language, config.target_language}
    return bool(configured) or any(cell.strip() in known for cell in cells)


def _parquet(path: Path) -> Iterator[tuple[str, Row]]:
    import pyarrow
    import pyarrow.parquet

    try:
        rows = pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise TaskError(f"{path} is not a readable parquet file: {error}") from error
    return ((f"{path} row {number}", row) for number, row in enumerate(rows, 1))


def _existing(path: str) -> Path:
    found = Path(path)
    if not found.is_file():
        folder = found.parent if found.parent.is_dir() else Path()
        beside = [str(folder / other.name) for other in folder.iterdir() if other.is_file()]
        hint = nearest(str(path), beside)
        raise TaskError(f"no data file at {path}{hint if 'did you mean' in hint else ''}")
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise TaskError(f"{path}:{line}: not UTF-8 text ({error.reason})") from error


def _listing(record: Row) -> str:
    return ", ".join(repr(name) for name in record) or "none"
