"""Which modules does a user mean? Selectors over a model's sites: by name, by role, by layer.

A rule pairs a selector with a spec. Rules are ordered and the first that matches a site decides it. A rule only sees
the sites that its spec can stand in: one with an attention's spec never matches a dense layer.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .sites import Site
from .specs import Spec, as_spec, nearest


@dataclass(frozen=True)
class Rule:
    """A selector and what to do with the modules it selects. Every given condition must hold.

    Args:
        spec: What the selected modules become.
        match: Shell pattern over the qualified name or its end ("*.fc1", "fc1", "model.encoder.*"), or a regular
            expression over the whole name behind "re:".
        role: Shell pattern over roles: "attn.q", "attn.*", "mlp.up", "head"; "attn.self" and
            "attn.cross" of whole attentions.
        layers: Layers of each stack, counted from the end if negative: "0,-1", "2:-2" (end excluded), "3".
    """

    spec: Spec
    match: str | None = None
    role: str | None = None
    layers: str | None = None

    def __post_init__(self) -> None:
        if self.match is None and self.role is None and self.layers is None:
            raise ValueError('a rule needs a selector: match, role or layers (match="*" selects every layer)')
        if self.match is not None and self.match.startswith("re:"):
            try:
                re.compile(self.match[3:])
            except re.error as error:
                raise ValueError(f"{self.match!r} is not a regular expression: {error}") from None
        if self.layers is not None:
            layer_indices(self.layers, 1)

    def selects(self, site: Site) -> bool:
        """Whether all conditions hold for a site where the spec can stand."""
        return (
            self.spec.place in ("any", site.place)
            and (self.match is None or any(name_matches(self.match, name) for name in site.aliases))
            and (self.role is None or fnmatch.fnmatchcase(site.role, self.role))
            and (self.layers is None or site.layer in layer_indices(self.layers, site.depth))
        )

    def selector(self) -> dict[str, str]:
        """The given conditions."""
        pairs = {"match": self.match, "role": self.role, "layers": self.layers}
        return {key: value for key, value in pairs.items() if value is not None}

    def to_dict(self) -> dict[str, Any]:
        """JSON form: the conditions and `op`."""
        return {**self.selector(), "op": self.spec.to_dict()}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Rule:
        """Rebuild from the JSON form.

        Raises:
            ValueError: Unknown key or operator; the message proposes the nearest names.

        >>> Rule.from_dict({"role": "mlp.*", "op": "shift"}).spec.bits
        4
        """
        known = ["match", "role", "layers", "op"]
        for key in data:
            if key not in known:
                raise ValueError(f"a rule has no key {key!r}; {nearest(key, known)}")
        if "op" not in data:
            raise ValueError(f"rule {data} says no operator; add op, e.g. op = 'shift'")
        return rule(data.get("match"), data["op"], role=data.get("role"), layers=data.get("layers"))

    def __str__(self) -> str:
        return ", ".join(f"{key}={value!r}" for key, value in self.selector().items())


def rule(
    match: str | None = None,
    op: Spec | str | dict[str, Any] | None = None,
    *,
    role: str | None = None,
    layers: str | int | Sequence[int] | None = None,
) -> Rule:
    """Write a rule briefly.

    Args:
        match: Name pattern.
        op: A spec, its JSON form, or an operator's name.
        role: Role pattern.
        layers: Layer range; numbers are accepted too.

    Returns:
        The rule.

    >>> rule("*.fc1", "shift", layers=[0, -1])
    Rule(spec=ShiftSpec(...), match='*.fc1', role=None, layers='0,-1')
    """
    if op is None:
        raise ValueError("a rule needs an operator: rule('*.fc1', 'shift'), or op=ShiftSpec(bits=3)")
    if layers is not None and not isinstance(layers, str):
        layers = str(layers) if isinstance(layers, int) else ",".join(map(str, layers))
    return Rule(as_spec(op), match, role, layers)


def layer_indices(text: str, depth: int) -> frozenset[int]:
    """The layers that a range names in a stack of `depth` layers.

    >>> sorted(layer_indices("0,-2:", 6))
    [0, 4, 5]
    """
    chosen: set[int] = set()
    for part in text.split(","):
        bounds = part.strip().split(":")
        try:
            numbers = [int(bound) if bound.strip() else None for bound in bounds]
        except ValueError:
            numbers = []
        if len(numbers) == 1 and numbers[0] is not None:
            chosen.add(numbers[0] % depth if -depth <= numbers[0] < depth else -1)
        elif len(numbers) == 2:
            chosen.update(range(depth)[slice(*numbers)])
        else:
            raise ValueError(f"layers={text!r} is not a range; write '0', '0,-1' or '2:-2'")
    return frozenset(chosen - {-1})


def name_matches(pattern: str, name: str) -> bool:
    """Whether a pattern means a name: see `Rule.match`.

    >>> name_matches("fc1", "encoder.layers.0.fc1"), name_matches("re:fc[12]", "encoder.layers.0.fc1")
    (True, False)
    """
    if pattern.startswith("re:"):
        return re.fullmatch(pattern[3:], name) is not None
    return fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name, "*." + pattern)
