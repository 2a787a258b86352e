"""What every operator's spec is: a frozen value that travels through JSON unchanged."""

from __future__ import annotations

import dataclasses
import difflib
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

Place = Literal["linear", "attention", "any"]


def nearest(word: str, known: list[str], count: int = 3) -> str:
    """The end of an error message that proposes what the user may have meant.

    >>> nearest("shfit", ["shift", "adder"])
    "nearest: 'shift'"
    """
    close = difflib.get_close_matches(word, known, n=count, cutoff=0.4) or sorted(known)[:count]
    return "nearest: " + ", ".join(repr(name) for name in close) if close else "there is none"


def require(condition: bool, message: str) -> None:
    """Refuse a field's value with this message."""
    if not condition:
        raise ValueError(message)


def require_positive(spec: Spec, name: str) -> None:
    """Refuse what is not a number above 0."""
    value = getattr(spec, name)
    valid = isinstance(value, int | float) and not isinstance(value, bool) and value > 0
    require(valid, f"{spec.kind}: {name} must be positive, not {value!r}")


def require_integer(spec: Spec, name: str, low: int, high: int) -> None:
    """Refuse what is not a whole number from `low` to `high`."""
    value = getattr(spec, name)
    valid = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
    require(valid, f"{spec.kind}: {name} must be an integer from {low} to {high}, not {value!r}")


@dataclass(frozen=True)
class Spec:
    """What every operator's spec can do.

    Attributes:
        kind: Its name in JSON, rules and tables.
        place: What it takes the place of: a linear layer, the core of an attention, or either.
        changes: Whether anything becomes different.
    """

    kind: ClassVar[str]
    place: ClassVar[Place] = "linear"
    changes: ClassVar[bool] = True

    def to_dict(self) -> dict[str, Any]:
        """The JSON form: `kind` and every field that differs from its default."""
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        changed = {k: v for k, v in dataclasses.asdict(self).items() if v != defaults[k]}
        return {"kind": self.kind, **changed}

    def __str__(self) -> str:
        details = ", ".join(f"{k}={v}" for k, v in self.to_dict().items() if k != "kind")
        return f"{self.kind}({details})" if details else self.kind


def require_choice(spec: Spec, name: str, choices: tuple[Any, ...]) -> None:
    """Refuse what is not one of these values, types included: True is not 1."""
    value = getattr(spec, name)
    valid = any(type(value) is type(choice) and value == choice for choice in choices)
    require(valid, f"{spec.kind}: {name} must be one of {', '.join(map(repr, choices))}, not {value!r}")
