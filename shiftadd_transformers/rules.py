"""Which modules does a user mean? Selectors over a model's dense layers: by name, by role, by layer.

A rule pairs a selector with a spec. Rules are ordered and the first that matches a module decides it. What a rule can
select by is a `Site`: a dense layer's name, its role in the architecture, and its place in the stack of layers.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from .layers.base import dense_weight, is_dense
from .specs import Spec, as_spec, nearest

# Names differ between architectures, roles do not. The first pattern that matches the end of a name decides, so the
# more specific ones stand first: a classifier's `out_proj` is a head, not an attention output.
_ATTENTION = r"(?:.*[._])?(?:self_?attn|attn|attention|encoder_attn|SelfAttention|EncDecAttention|self)\."
ROLE_PATTERNS: dict[str, str] = {
    "head": r"(?:lm_head|proj_out|score|qa_outputs|pre_classifier|vocab_projector|vocab_transform|visual_projection"
    r"|text_projection|(?:cls_|distillation_)?classifier(?:\..+)?|(?:.*\.)?pooler\.dense|cls\.predictions\..+"
    r"|(?:.*\.)?lm_head\..+)",
    "attn.qkv": _ATTENTION + r"(?:qkv_proj|qkv|c_attn|query_key_value)",
    "attn.q": _ATTENTION + r"(?:q_proj|q_lin|query|q)",
    "attn.k": _ATTENTION + r"(?:k_proj|k_lin|key|k)",
    "attn.v": _ATTENTION + r"(?:v_proj|v_lin|value|v)",
    "attn.o": _ATTENTION + r"(?:o_proj|out_proj|out_lin|output\.dense|c_proj|proj|o)",
    "mlp.gate_up": r"(?:.*\.)?(?:gate_up_proj|weights_in)",
    "mlp.gate": r"(?:.*\.)?(?:gate_proj|wi_0)",
    "mlp.up": r"(?:.*\.)?(?:up_proj|fc1|lin1|c_fc|intermediate\.dense|dense1|wi_1|wi)",
    "mlp.down": r"(?:.*\.)?(?:down_proj|fc2|lin2|c_proj|output\.dense|dense2|weights_out|wo)",
}
OTHER = "other"


def role_of(name: str) -> str:
    """The part that a module plays, told by its name.

    >>> role_of("model.decoder.layers.0.encoder_attn.q_proj"), role_of("model.layers.3.mlp.down_proj")
    ('attn.q', 'mlp.down')
    """
    for role, pattern in ROLE_PATTERNS.items():
        if re.fullmatch(pattern, name):
            return role
    return OTHER


@dataclass(frozen=True)
class Site:
    """A dense layer of a model, as rules see it.

    Args:
        name: Qualified module name.
        aliases: The same name with and without the model's base prefix, so that a plan written for a model with a
            head also fits the model without one.
        role: See `ROLE_PATTERNS`.
        shape: `(N, K)`.
        stack: Name of the module list that the layer stands in, or "".
        layer: Index in that list, or None.
        depth: Length of that list.
    """

    name: str
    aliases: tuple[str, ...]
    role: str
    shape: tuple[int, int]
    stack: str
    layer: int | None
    depth: int


def sites(model: nn.Module) -> list[Site]:
    """All dense layers inside a model, in module order."""
    found = [(name, module) for name, module in model.named_modules() if name and is_dense(module)]
    depths: dict[str, int] = {}
    for name, _ in found:
        stack, layer = _place(name)
        if layer is not None:
            depths[stack] = max(depths.get(stack, 0), layer + 1)
    result = []
    for name, module in found:
        stack, layer = _place(name)
        n, k = dense_weight(module).shape
        names = aliases(name, model)
        result.append(Site(name, names, role_of(name), (n, k), stack, layer, depths.get(stack, 0)))
    return result


def aliases(name: str, model: nn.Module) -> tuple[str, ...]:
    """`name` first, then how it reads with the base prefix removed or added."""
    prefix = getattr(model, "base_model_prefix", "")
    if not prefix:
        return (name,)
    return tuple(dict.fromkeys((name, name.removeprefix(prefix + "."), f"{prefix}.{name}")))


def _place(name: str) -> tuple[str, int | None]:
    """The outermost module list in a name and the index in it."""
    parts = name.split(".")
    for i, part in enumerate(parts):
        if part.isdigit():
            return ".".join(parts[:i]), int(part)
    return "", None


@dataclass(frozen=True)
class Rule:
    """A selector and what to do with the modules it selects. Every given condition must hold.

    Args:
        spec: What the selected modules become.
        match: Shell pattern over the qualified name or its end ("*.fc1", "fc1", "model.encoder.*"), or a regular
            expression over the whole name behind "re:".
        role: Shell pattern over roles: "attn.q", "attn.*", "mlp.up", "head".
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
        """Whether all conditions hold for a module."""
        return (
            (self.match is None or any(_matches(self.match, name) for name in site.aliases))
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


def _matches(pattern: str, name: str) -> bool:
    if pattern.startswith("re:"):
        return re.fullmatch(pattern[3:], name) is not None
    return fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name, "*." + pattern)
