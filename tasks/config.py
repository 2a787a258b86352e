"""How does a TOML file become a checked, frozen config, and how is a key overridden from the command line?

A config is a tree of frozen dataclasses; this file knows nothing about any task.  Types are read from the
annotations, so a dataclass is the only place where a key is declared.
"""

from __future__ import annotations

import dataclasses
import json
import os
import tomllib
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from tasks.errors import TaskError, nearest

Config = TypeVar("Config")


def read_config(kind: type[Config], path: str | os.PathLike[str], overrides: Iterable[str] = ()) -> Config:
    """Read a TOML file, apply `key=value` overrides and check everything.

    Args:
        kind: the dataclass of the whole config.
        path: the TOML file.
        overrides: texts such as `train.learning_rate=1e-3`; later ones win.

    Returns:
        An instance of `kind`.

    Raises:
        TaskError: no such file, broken TOML, an unknown key (the nearest is proposed) or a value of another
            type.
    """
    return build(kind, apply_overrides(kind, read_toml(path), overrides), where=str(path))


def read_toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The tables of one TOML file as plain dicts."""
    path = Path(path)
    if not path.is_file():
        beside = [str(found) for found in sorted(path.parent.glob("*.toml"))] if path.parent.is_dir() else []
        raise TaskError(f"no config file at {path}{nearest(str(path), beside) if beside else ''}")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise TaskError(f"{path} is not valid TOML: {error}") from error


def apply_overrides(kind: type[Any], tables: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """A copy of `tables` in which every `a.b=value` has been set."""
    result: dict[str, Any] = _deep_copy(tables)
    for text in overrides:
        keys, value = parse_override(kind, text)
        table = result
        for key in keys[:-1]:
            table = table.setdefault(key, {})
        table[keys[-1]] = value
    return result


def parse_override(kind: type[Any], text: str) -> tuple[list[str], Any]:
    """Split `a.b=value`; the value is TOML where that parses, and bare text otherwise.

    Examples:
        >>> from tasks.translation.config import TranslationConfig
        >>> parse_override(TranslationConfig, "train.learning_rate=1e-3")
        (['train', 'learning_rate'], 0.001)
    """
    dotted, separator, raw = text.partition("=")
    keys = dotted.strip().split(".")
    if not separator or not all(keys):
        raise TaskError(f"override {text!r} is not of the form key=value, for example train.learning_rate=1e-3")
    if _leaf_is_text(kind, keys, text):
        return keys, _unquoted(raw.strip())
    return keys, _toml_value(raw.strip())


def build(kind: type[Config], values: Mapping[str, Any], where: str = "config", prefix: str = "") -> Config:
    """Check a table against a dataclass and make the instance.

    Args:
        kind: a dataclass.
        values: a (nested) table of plain values.
        where: the file, for messages.
        prefix: dotted name of this table, for messages.

    Raises:
        TaskError: an unknown key, a wrong type, or a value that the dataclass itself refuses.
    """
    hints = typing.get_type_hints(kind)
    names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for key in values:
        if key not in names:
            raise TaskError(f"{where}: unknown key {prefix + key!r}{_nearest_key(kind, prefix, key)}")
    checked = {key: _check(hints[key], value, where, prefix + key) for key, value in values.items()}
    try:
        return kind(**checked)
    except TaskError as error:
        raise TaskError(f"{where}: {error}") from error
    except TypeError as error:
        missing = [f.name for f in dataclasses.fields(kind) if _required(f) and f.name not in checked]  # type: ignore
        raise TaskError(f"{where}: missing {', '.join(prefix + name for name in missing)}") from error


def to_tables(config: Any) -> dict[str, Any]:
    """The config as plain tables, ready for TOML: tuples become lists and absent values are left out."""
    return {
        field.name: _plain(getattr(config, field.name))
        for field in dataclasses.fields(config)
        if getattr(config, field.name) is not None
    }


def write_config(config: Any, path: str | os.PathLike[str]) -> None:
    """Write the resolved config, so that a run says by itself what it was."""
    write_text(path, "\n".join(toml_lines(to_tables(config))) + "\n")


def toml_lines(table: Mapping[str, Any], name: str = "") -> Iterator[str]:
    """One table as TOML: its values first, then its sub-tables under their dotted names."""
    if name:
        yield f"\n[{name}]"
    for key, value in table.items():
        if not isinstance(value, Mapping):
            yield f"{key} = {_toml_text(value)}"
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from toml_lines(value, f"{name}.{key}" if name else key)


def _toml_text(value: Any) -> str:
    """A value inline; JSON's texts, numbers and truth values are also TOML's."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {_toml_text(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml_text, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a file whole or not at all: a full disk or a crash leaves the old file as it was."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _check(hint: Any, value: Any, where: str, name: str) -> Any:
    """`value` in the shape that `hint` asks for, or a TaskError that names the key."""
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    if value == "none" and type(None) in options:
        return None
    for option in options:
        if dataclasses.is_dataclass(option) and isinstance(value, Mapping):
            return build(typing.cast(type, option), value, where, name + ".")
        if _is_table_list(option) and isinstance(value, list | tuple):
            item = typing.get_args(option)[0]
            return tuple(_check(item, entry, where, f"{name}[{i}]") for i, entry in enumerate(value, 1))
        matched, converted = _match(option, value)
        if matched:
            return converted
    raise TaskError(f"{where}: {name} must be {_describe(options)}, got {value!r}")


def _is_table_list(option: Any) -> bool:
    """Whether an annotation is a list of tables that have a dataclass."""
    return typing.get_origin(option) is tuple and dataclasses.is_dataclass(typing.get_args(option)[0])


def _match(option: Any, value: Any) -> tuple[bool, Any]:
    """Whether one annotation accepts a value, and the value converted (a list to a tuple)."""
    origin, arguments = typing.get_origin(option), typing.get_args(option)
    if option is type(None):
        return value is None, None
    if origin is typing.Literal:
        return value in arguments, value
    if option is float:
        return isinstance(value, int | float) and not isinstance(value, bool), value
    if option is int:
        return isinstance(value, int) and not isinstance(value, bool), value
    if origin is tuple:
        fits = isinstance(value, list | tuple) and all(_match(arguments[0], item)[0] for item in value)
        return fits, tuple(value) if fits else value
    return isinstance(value, origin or option), value


def _describe(options: Iterable[Any]) -> str:
    """Annotations in words: "a whole number or none"."""
    words = {
        int: "a whole number",
        float: "a number",
        str: "a text",
        bool: "true or false",
        type(None): "none",
    }
    return " or ".join(_describe_one(option, words) for option in options)


def _describe_one(option: Any, words: Mapping[Any, str]) -> str:
    if typing.get_origin(option) is typing.Literal:
        return "one of " + ", ".join(repr(item) for item in typing.get_args(option))
    if typing.get_origin(option) is tuple:
        return "a list"
    if dataclasses.is_dataclass(option) or (typing.get_origin(option) or option) is dict:
        return "a table"
    return words.get(option, str(option))


def _leaf_is_text(kind: type[Any], keys: list[str], text: str) -> bool:
    """Whether the key takes text (so that `data.source=1.jsonl` needs no quotes); unknown keys fail here."""
    current: Any = kind
    for depth, key in enumerate(keys):
        options = typing.get_args(current) or (current,)
        tables = [option for option in options if dataclasses.is_dataclass(option)]
        if not tables:
            return False
        hints = typing.get_type_hints(tables[0])
        if key not in hints:
            prefix = ".".join([*keys[:depth], ""])
            hint = _nearest_key(typing.cast(type, tables[0]), prefix, key)
            raise TaskError(f"override {text!r}: unknown key {'.'.join(keys[: depth + 1])!r}{hint}")
        current = hints[key]
    options = typing.get_args(current) if typing.get_origin(current) is not typing.Literal else (str,)
    return str in (options or (current,))


def _nearest_key(kind: type[Any], prefix: str, key: str) -> str:
    return nearest(prefix + key, [prefix + field.name for field in dataclasses.fields(kind)])


def _required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _toml_value(raw: str) -> Any:
    try:
        return tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        return _python_number(raw)


def _python_number(raw: str) -> Any:
    """`1e-3` is TOML, `.5` is not; accept both, and hand anything else to the type check as text."""
    try:
        return float(raw)
    except ValueError:
        return raw


def _unquoted(raw: str) -> str:
    return raw[1:-1] if len(raw) > 1 and raw[0] == raw[-1] and raw[0] in "\"'" else raw


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_tables(value)
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items() if item is not None}
    return value


def _deep_copy(tables: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _deep_copy(value) if isinstance(value, Mapping) else value for key, value in tables.items()}
