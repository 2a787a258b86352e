"""How large may the parts of a model be? What a user writes about widths, heads and depths, resolved against a model.

The largest size is the model's own: a smaller one is its leading part, so that all sizes can share one set of weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from torch import nn

from shiftadd_transformers.extents import Extent, Kind, extents
from shiftadd_transformers.rules import Rule, rule
from shiftadd_transformers.sites import Site, aliases, sites
from shiftadd_transformers.specs import DenseSpec, SoftmaxSpec, Spec, nearest

from .decisions import SizeDecision, Together, Vocabulary

_DEFAULT_ROLES = {"width": "mlp.*", "heads": "attn.*"}
_KEYS = {"widths": "width", "heads": "heads", "depth": "depth"}
"""What the writers below are called, and so the keys of the JSON form."""


@dataclass(frozen=True)
class Sizes:
    """A selector and the sizes that what it selects may have.

    Args:
        kind: Widths of feed-forwards, heads of attentions, or depths of stacks.
        values: The largest is the model's own.
        match: Name pattern, as in a rule; of a stack's name for a depth.
        role: As in a rule.
        layers: As in a rule.
        together: What is decided as one, as in a vocabulary.
        name: Names the decisions of "layer" and "all".
    """

    kind: Kind
    values: tuple[int, ...]
    match: str | None = None
    role: str | None = None
    layers: str | None = None
    together: Together = "layer"
    name: str = ""

    def __post_init__(self) -> None:
        if not self.values or len(set(self.values)) < len(self.values):
            raise ValueError(f"{self.kind}: sizes must be different, and at least one, not {list(self.values)}")
        if not all(isinstance(value, int) and value > 0 for value in self.values):
            raise ValueError(f"{self.kind}: sizes are whole numbers from 1, not {list(self.values)}")
        if self.together not in get_args(Together):
            raise ValueError(
                f"together={self.together!r} is unknown; {nearest(str(self.together), list(get_args(Together)))}"
            )

    def rule(self) -> Rule:
        """What selects."""
        spec: Spec = SoftmaxSpec() if self.kind == "heads" else DenseSpec()
        return Rule(spec, self.match, self.role, self.layers)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Sizes:
        """Rebuild from the JSON form: `{"widths": [64, 128], "role": "mlp.*"}`.

        Raises:
            ValueError: Unknown key; the message proposes the nearest names.
        """
        key = next(key for key in _KEYS if key in data)
        known = [key, "match", "role", "layers", "together", "name"]
        for given in data:
            if given not in known:
                raise ValueError(f"a vocabulary of {key} has no key {given!r}; {nearest(given, known)}")
        rest = {name: value for name, value in data.items() if name != key}
        return _written(_KEYS[key], data[key], **rest)  # type: ignore[arg-type]

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        optional = {"match": self.match, "role": self.role, "layers": self.layers, "name": self.name or None}
        given = {key: value for key, value in optional.items() if value is not None}
        key = next(key for key, kind in _KEYS.items() if kind == self.kind)
        return {key: list(self.values), **given, "together": self.together}

    def __str__(self) -> str:
        return f"{self.kind} of {self.rule()}"


def widths(
    values: Sequence[int],
    match: str | None = None,
    *,
    role: str | None = None,
    layers: str | int | Sequence[int] | None = None,
    together: Together = "layer",
    name: str = "",
) -> Sizes:
    """Let feed-forwards have one of these widths.

    Args:
        values: Hidden widths; the largest is the model's own.
        match: Name pattern.
        role: Role pattern, by default that of feed-forwards.
        layers: Layer range; numbers are accepted too.
        together: What is decided as one.
        name: What to call it.

    >>> widths([512, 1024]).rule().role
    'mlp.*'
    """
    return _written("width", values, match, role, layers, together, name)


def heads(
    values: Sequence[int],
    match: str | None = None,
    *,
    role: str | None = None,
    layers: str | int | Sequence[int] | None = None,
    together: Together = "site",
    name: str = "",
) -> Sizes:
    """Let attentions have one of these numbers of heads.

    Args:
        values: The largest is the model's own.
        match: Name pattern.
        role: "attn.self", "attn.cross", or by default both.
        layers: Layer range; numbers are accepted too.
        together: What is decided as one.
        name: What to call it.
    """
    return _written("heads", values, match, role, layers, together, name)


def depth(values: Sequence[int], match: str = "*", *, together: Together = "site", name: str = "") -> Sizes:
    """Let stacks have one of these numbers of layers.

    Args:
        values: The largest is the model's own.
        match: Pattern over names of stacks: "model.decoder.layers".
        together: "site" decides each stack, "all" all of them as one.
        name: What to call it.
    """
    return _written("depth", values, match, None, None, together, name)


def _written(
    kind: Kind,
    values: Sequence[int],
    match: str | None = None,
    role: str | None = None,
    layers: str | int | Sequence[int] | None = None,
    together: Together | None = None,
    name: str = "",
) -> Sizes:
    if match is None and role is None and layers is None:
        match, role = (None, _DEFAULT_ROLES[kind]) if kind in _DEFAULT_ROLES else ("*", None)
    ranges = rule(match, "dense", role=role, layers=layers).layers
    usual: Together = "layer" if kind == "width" else "site"
    return Sizes(kind, tuple(values), match, role, ranges, together or usual, name)


def vocabulary_from(written: Vocabulary | Sizes | Mapping[str, Any]) -> Vocabulary | Sizes:
    """What a user wrote, or its JSON form."""
    if isinstance(written, Vocabulary | Sizes):
        return written
    return Sizes.from_dict(written) if _KEYS.keys() & written.keys() else Vocabulary.from_dict(written)


def size_decisions(model: nn.Module, written: Sequence[Vocabulary | Sizes]) -> tuple[list[SizeDecision], list[Extent]]:
    """The decisions about sizes, and what they are about; the first that selects something decides it.

    Raises:
        ValueError: One selects nothing, something that cannot be smaller, or something of another size.
    """
    if not any(isinstance(sizes, Sizes) for sizes in written):
        return [], []
    possible, reasons = extents(model)
    places = [*sites(model), *_stacks(model, possible, reasons)]
    free = dict(possible)
    decisions: list[SizeDecision] = []
    for number, sizes in enumerate(written, start=1):
        if not isinstance(sizes, Sizes):
            continue
        label = f"vocabulary {number} ({sizes})"
        known = {**{name: e.kind for name, e in possible.items()}, **dict.fromkeys(reasons, sizes.kind)}
        fits = [place for place in places if known.get(place.name) == sizes.kind and sizes.rule().selects(place)]
        chosen = [place for place in fits if place.name in free]
        for place in chosen if chosen else fits:
            _insist(label, sizes, place.name, free, reasons)
        if not fits:
            names = [name for name, e in possible.items() if e.kind == sizes.kind]
            raise ValueError(f"{label} fits nothing; {nearest(sizes.match or str(sizes.role), names)}")
        for place in chosen:
            del free[place.name]
        decisions += _grouped(sizes, chosen)
    return decisions, [possible[name] for d in decisions for name in d.extents]


def _stacks(model: nn.Module, possible: Mapping[str, Extent], reasons: Mapping[str, str]) -> list[Site]:
    """Stacks as places that a rule can select."""
    names = [n for n in (*possible, *reasons) if isinstance(model.get_submodule(n), nn.ModuleList | nn.Sequential)]
    return [Site(name, aliases(name, model), "stack", (0, 0), "", None, 0) for name in names]


def _insist(label: str, sizes: Sizes, name: str, free: Mapping[str, Extent], reasons: Mapping[str, str]) -> None:
    if name in reasons:
        raise ValueError(f"{label}: {name} cannot be smaller: {reasons[name]}")
    if name not in free:
        raise ValueError(f"{label}: an earlier vocabulary decides {name}")
    for value in sizes.values:
        try:
            free[name].check(value)
        except ValueError as error:
            raise ValueError(f"{label}: {error}") from None
    if max(sizes.values) != free[name].size:
        raise ValueError(
            f"{label}: the largest size must be the model's own, and {name} has {free[name].size}; "
            f"add {free[name].size}, or select with match or layers what has {max(sizes.values)}"
        )


def _grouped(sizes: Sizes, places: Sequence[Site]) -> list[SizeDecision]:
    groups: dict[str, list[str]] = {}
    for place in places:
        name = place.name
        if sizes.together == "layer" and place.role != "stack":
            name = f"{place.stack}.{place.layer}" if place.stack else "outside"
        elif sizes.together == "all":
            name = sizes.name or sizes.role or sizes.match or "layers " + str(sizes.layers)
        groups.setdefault(f"{name}:{sizes.kind}", []).append(place.name)
    return [SizeDecision(name, sizes.values, tuple(group)) for name, group in groups.items()]
