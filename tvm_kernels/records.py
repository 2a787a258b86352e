"""What did tuning find out? One file per target: the decisions that ran fastest, per kernel, shape and rule."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from .targets import Target

FOLDER = Path(__file__).parent / "records"


def recorded(target: Target, kernel: str, shape: Any, rule: str) -> Mapping[str, int]:
    """Decisions that were found fastest; empty where nothing was tuned."""
    return _records(target.name).get(_key(kernel, shape, rule), {})


@cache
def _records(target: str) -> dict[str, dict[str, int]]:
    path = FOLDER / f"{target}.json"
    rows = json.loads(path.read_text()) if path.exists() else []
    return {_key(row["kernel"], row["shape"], row["rule"]): row["decisions"] for row in rows}


def _key(kernel: str, shape: Any, rule: str) -> str:
    fields = shape if isinstance(shape, dict) else asdict(shape)
    return json.dumps([kernel, fields, rule], sort_keys=True)
