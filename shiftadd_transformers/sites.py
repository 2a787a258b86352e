"""What can a rule select? Every place of a model where an operator may stand, told by name, role and layer.

There are two kinds of places: dense layers, and attentions, whose core (what happens between the projections) can be
exchanged.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import nn

from .layers.attention import AttentionCore, head_shape, is_cross_attention
from .layers.base import OperatorModule, dense_weight, is_dense
from .layers.projections import NarrowProjection
from .specs.base import Place

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
    """A place of a model where an operator may stand.

    Args:
        name: Qualified module name.
        aliases: The same name with and without the model's base prefix, so that a plan written for a model with a
            head also fits the model without one.
        role: See `ROLE_PATTERNS`; "attn.self" or "attn.cross" for an attention.
        shape: `(N, K)` of a dense layer, `(H, E)` of an attention.
        stack: Name of the module list that it stands in, or "".
        layer: Index in that list, or None.
        depth: Length of that list.
        place: Whether this is a dense layer or an attention.
    """

    name: str
    aliases: tuple[str, ...]
    role: str
    shape: tuple[int, int]
    stack: str
    layer: int | None
    depth: int
    place: Place = "linear"


def sites(model: nn.Module) -> list[Site]:
    """All dense layers and attentions inside a model, in module order."""
    modules = {name: module for name, module in model.named_modules() if name}
    depths = _depths(modules)
    found = []
    for name, module in modules.items():
        place = _sort(name, module, modules)
        if place is not None:
            kind, role, shape = place
            stack, layer = position(name)
            names = aliases(name, model)
            found.append(Site(name, names, role, shape, stack, layer, depths.get(stack, 0), kind))
    return found


def _sort(name: str, module: nn.Module, modules: Mapping[str, nn.Module]) -> tuple[Place, str, tuple[int, int]] | None:
    """What kind of place a module is, its role and shape; None if no operator can stand there."""
    if isinstance(module, NarrowProjection):
        dense = module.linear
        return ("linear", role_of(name), matrix_shape(dense)) if dense and is_dense(dense) else None
    if isinstance(modules.get(name.rpartition(".")[0]), NarrowProjection):
        return None  # seen through the projection around it
    if is_dense(module):
        return "linear", role_of(name), matrix_shape(module)
    projections = query_key_projections(name, module)
    if projections and not isinstance(getattr(module, "core", None), AttentionCore):
        role = "attn.cross" if is_cross_attention(name) else "attn.self"
        return "attention", role, head_shape(module, module.get_submodule(projections[0]))
    return None


def matrix_shape(dense: nn.Module) -> tuple[int, int]:
    """`(N, K)` of a dense layer."""
    n, k = dense_weight(dense).shape
    return n, k


def tied_layers(model: nn.Module) -> frozenset[str]:
    """Dense layers whose weight is also another module's."""
    owners = Counter(id(p) for _, m in model.named_modules() for p in m._parameters.values() if p is not None)
    dense = ((name, module) for name, module in model.named_modules() if is_dense(module))
    return frozenset(name for name, module in dense if owners[id(module.get_parameter("weight"))] > 1)


def query_key_projections(name: str, attention: nn.Module) -> tuple[str, ...]:
    """Names, inside an attention module, of its query and key projections, or of the one projection for all three."""
    roles = {"attn.q": "q", "attn.k": "k", "attn.qkv": "q"}
    found = {}
    for child, module in attention.named_children():
        part = roles.get(role_of(f"{name}.{child}"))
        if part and (is_dense(module) or isinstance(module, OperatorModule | NarrowProjection)):
            found[part] = child
    return tuple(found[part] for part in sorted(found, reverse=True))


def separate_projections(name: str, attention: nn.Module) -> tuple[str, ...]:
    """The query and key projections that are layers of their own, which a core that reads less can do without."""
    names = query_key_projections(name, attention)
    return names if len(names) == 2 else ()


def _depths(modules: Iterable[str]) -> dict[str, int]:
    depths: dict[str, int] = {}
    for name in modules:
        stack, layer = position(name)
        if layer is not None:
            depths[stack] = max(depths.get(stack, 0), layer + 1)
    return depths


def aliases(name: str, model: nn.Module) -> tuple[str, ...]:
    """`name` first, then how it reads with the base prefix removed or added."""
    prefix = getattr(model, "base_model_prefix", "")
    if not prefix:
        return (name,)
    return tuple(dict.fromkeys((name, name.removeprefix(prefix + "."), f"{prefix}.{name}")))


def position(name: str) -> tuple[str, int | None]:
    """The outermost module list in a name and the index in it.

    >>> position("model.layers.3.mlp.fc1"), position("lm_head")
    (('model.layers', 3), ('', None))
    """
    parts = name.split(".")
    for i, part in enumerate(parts):
        if part.isdigit():
            return ".".join(parts[:i]), int(part)
    return "", None
