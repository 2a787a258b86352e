"""What is there to decide? Decisions, the vocabularies that a user writes them as, and limits on their choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any, Literal, get_args

from shiftadd_transformers.rules import Rule, rule
from shiftadd_transformers.specs import Spec, as_spec, nearest, spec_from_dict

Together = Literal["site", "layer", "all"]

Candidate = tuple[int, ...]
"""One choice per decision, by index."""


@dataclass(frozen=True)
class Decision:
    """Something that a search decides.

    Args:
        name: Unique in its space.
        values: What can be chosen, different from each other; plain JSON values.
    """

    name: str
    values: tuple[Any, ...]

    def __post_init__(self) -> None:
        if not self.values or len(set(self.labels)) < len(self.values):
            raise ValueError(f"{self.name}: the choices must be different, and at least one, not {self.labels}")

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """The values as readable text."""
        return tuple(map(str, self.values))

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {"name": self.name, "values": list(self.values)}


@dataclass(frozen=True)
class SpecDecision(Decision):
    """How a group of modules computes: they all get the same spec.

    Args:
        name: Unique in its space.
        values: Specs.
        sites: Names of the modules.
    """

    values: tuple[Spec, ...]
    sites: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {"name": self.name, "specs": [spec.to_dict() for spec in self.values], "sites": list(self.sites)}

    def index_of(self, kind: str) -> int | None:
        """The first choice of a kind; "dense" stands for whatever changes nothing."""
        kinds = (spec.kind == kind or (kind == "dense" and not spec.changes) for spec in self.values)
        return next((index for index, found in enumerate(kinds) if found), None)


@dataclass(frozen=True)
class SizeDecision(Decision):
    """How much of something stays: the width of feed-forwards, the heads of attentions, the depth of stacks.

    Args:
        name: Unique in its space.
        values: Sizes; the largest is the model's own.
        extents: What gets the size, by name.
    """

    values: tuple[int, ...]
    extents: tuple[str, ...] = ()

    @property
    def largest(self) -> int:
        """The choice that leaves the model as large as it is."""
        return self.values.index(max(self.values))

    @property
    def smallest(self) -> int:
        """The choice that leaves least."""
        return self.values.index(min(self.values))

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {"name": self.name, "sizes": list(self.values), "extents": list(self.extents)}


def decision_from_dict(data: Mapping[str, Any]) -> Decision:
    """Rebuild a decision from its JSON form."""
    if "sizes" in data:
        return SizeDecision(data["name"], tuple(data["sizes"]), tuple(data["extents"]))
    if "specs" not in data:
        return Decision(data["name"], tuple(data["values"]))
    return SpecDecision(data["name"], tuple(spec_from_dict(spec) for spec in data["specs"]), tuple(data["sites"]))


@dataclass(frozen=True)
class Vocabulary:
    """A selector over a model's sites and what may become of them: the searched counterpart of a rule.

    Args:
        choices: Specs; the modules where all of them can stand are selected.
        match: As in a rule.
        role: As in a rule.
        layers: As in a rule.
        together: What is decided as one: each module ("site"), the selected modules of each layer ("layer"), or all
            of them ("all").
        name: Names the decisions of "layer" and "all"; by default the role or pattern.
    """

    choices: tuple[Spec, ...]
    match: str | None = None
    role: str | None = None
    layers: str | None = None
    together: Together = "site"
    name: str = ""

    def __post_init__(self) -> None:
        if not self.choices:
            raise ValueError("a vocabulary needs choices: choose(['dense', 'shift'], role='mlp.*')")
        if self.together not in get_args(Together):
            raise ValueError(
                f"together={self.together!r} is unknown; {nearest(str(self.together), list(get_args(Together)))}"
            )
        unchanged = [str(spec) for spec in self.choices if not spec.changes]
        if len(unchanged) > 1 or len(set(self.choices)) < len(self.choices):
            raise ValueError(
                f"{self}: two choices mean the same among {', '.join(map(str, self.choices))}; leave one out"
            )
        self.rules()

    def rules(self) -> list[Rule]:
        """One rule per choice."""
        return [Rule(spec, self.match, self.role, self.layers) for spec in self.choices]

    @property
    def label(self) -> str:
        """What its groups are called."""
        return self.name or self.role or self.match or "layers " + str(self.layers)

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        optional = {"match": self.match, "role": self.role, "layers": self.layers, "name": self.name or None}
        given = {key: value for key, value in optional.items() if value is not None}
        return {**given, "choices": [spec.to_dict() for spec in self.choices], "together": self.together}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Vocabulary:
        """Rebuild from the JSON form; bare operator names are specs too.

        Raises:
            ValueError: Unknown key or operator; the message proposes the nearest names.
        """
        known = ["match", "role", "layers", "choices", "together", "name"]
        for key in data:
            if key not in known:
                raise ValueError(f"a vocabulary has no key {key!r}; {nearest(key, known)}")
        return choose(**{"choices": (), **data})

    def __str__(self) -> str:
        return str(Rule(self.choices[0], self.match, self.role, self.layers))


def choose(
    choices: Sequence[Spec | str | dict[str, Any]],
    match: str | None = None,
    *,
    role: str | None = None,
    layers: str | int | Sequence[int] | None = None,
    together: Together = "site",
    name: str = "",
) -> Vocabulary:
    """Write a vocabulary briefly.

    Args:
        choices: Specs, their JSON forms, or operators' names.
        match: Name pattern.
        role: Role pattern.
        layers: Layer range; numbers are accepted too.
        together: What is decided as one.
        name: What to call it.

    Returns:
        The vocabulary.

    >>> choose(["dense", "shift"], role="mlp.*", together="layer").label
    'mlp.*'
    """
    written = rule(match, "dense", role=role, layers=layers)
    return Vocabulary(tuple(map(as_spec, choices)), match, role, written.layers, together, name)


@dataclass(frozen=True)
class AtMost:
    """Only so many decisions may take an operator.

    Args:
        kind: The operator's name in JSON.
        count: How many decisions may choose it, at least 0. Those without effect do not count.
        among: Pattern over decisions' names.
    """

    kind: str
    count: int
    among: str = "*"

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ValueError(f"at_most({self.kind!r}, {self.count}): a number of decisions cannot be negative")

    def concerns(self, decision: Decision) -> tuple[bool, ...]:
        """Which of a decision's choices count."""
        chosen = isinstance(decision, SpecDecision) and named(decision.name, self.among)
        return tuple(chosen and value.kind == self.kind for value in decision.values)

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {"at_most": self.count, "kind": self.kind, "among": self.among}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> AtMost:
        """Rebuild from the JSON form."""
        return cls(data["kind"], data["at_most"], data.get("among", "*"))


@dataclass(frozen=True)
class Same:
    """Groups that are decided together although no layer joins them. They become one decision.

    Args:
        groups: Patterns over decisions' names; the decisions must offer the same choices.
    """

    groups: tuple[str, ...]


def at_most(kind: str, count: int, among: str = "*") -> AtMost:
    """Let at most `count` decisions choose an operator of this kind.

    >>> at_most("softmax", 2).count
    2
    """
    return AtMost(kind, count, among)


def same(*groups: str) -> Same:
    """Decide these groups as one."""
    return Same(groups)


def named(name: str, pattern: str) -> bool:
    """Whether a pattern means a decision: its name, or a shell pattern that fits it."""
    return name == pattern or fnmatchcase(name, pattern)
