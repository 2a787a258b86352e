"""How do rules become a plan? They are resolved against one model, and what does not fit is said."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from .extents import Cuts
from .plan import Entry, Plan, dense_at
from .rules import Rule
from .sites import Site, separate_projections, sites, tied_layers
from .specs import DenseSpec, MixerSpec, nearest


def make_plan(
    model: nn.Module,
    rules: Sequence[Rule | Mapping[str, Any]],
    *,
    protect: bool = True,
    sizes: Mapping[str, int] | None = None,
) -> Plan:
    """Resolve rules against a model.

    Args:
        model: Any module with dense layers. What is converted already is passed over.
        rules: First match wins; a module that no rule matches stays as it is.
        protect: Keep heads dense. Layers whose weight is tied to another module stay dense in any case.
        sizes: What is to be smaller: the first layer of a feed-forward → its outputs, an attention → its heads, a
            stack → its layers. Names, or patterns as in a rule. The rules meet what is left.

    Returns:
        A decision for every dense layer.

    Raises:
        ValueError: A rule selects nothing, or only protected layers; what a size names cannot be smaller. The
            message proposes the nearest names.

    >>> model = nn.ModuleDict({"fc1": nn.Linear(8, 8), "lm_head": nn.Linear(8, 9)})
    >>> from shiftadd_transformers import rule
    >>> print(make_plan(model, [rule("*", "shift")]).table())
    module   role    N × K  operator
    fc1      mlp.up  8 × 8  shift
    lm_head  head    9 × 8  dense     protected: head
    shift: 1 modules, 47% of weights; dense: 1 modules, 53% of weights
    """
    ordered = [r if isinstance(r, Rule) else Rule.from_dict(dict(r)) for r in rules]
    cuts = Cuts.of(model, sizes or {})
    found = _left(sites(model), cuts)
    shielded = _protected(model, found, protect)
    _check_rules(ordered, found, shielded, type(model).__name__)
    entries = {site.name: _decide(site, ordered, shielded.get(site.name, "")) for site in found}
    _drop_unread(model, entries)
    listed = {s.name: entries[s.name] for s in found if s.place == "linear" or entries[s.name].spec.changes}
    return Plan(listed, type(model).__name__, dict(cuts.sizes))


def _left(found: Sequence[Site], cuts: Cuts) -> list[Site]:
    """The sites that smaller sizes leave, as they will be."""
    shapes = cuts.shapes_after({site.name: site.shape for site in found})
    depths = cuts.of_kind("depth")
    return [
        replace(site, shape=shapes[site.name], depth=depths.get(site.stack, site.depth))
        for site in found
        if site.name in shapes
    ]


def _decide(site: Site, rules: Sequence[Rule], shield: str) -> Entry:
    spec = next((r.spec for r in rules if r.selects(site)), None)
    if shield:
        reason = f"protected: {shield}" if spec is None or spec.changes else ""
        return Entry(DenseSpec(), site.role, site.shape, reason)
    return Entry(spec or DenseSpec(), site.role, site.shape, "" if spec else "no rule")


def _drop_unread(model: nn.Module, entries: dict[str, Entry]) -> None:
    """A mixer reads no queries and keys: whatever a rule says, their projections will not be there."""
    for name, entry in list(entries.items()):
        if isinstance(entry.spec, MixerSpec) and not entry.spec.attention:
            projections = (f"{name}.{child}" for child in separate_projections(name, model.get_submodule(name)))
            for projection in entries.keys() & projections:
                left_out = replace(entries[projection], spec=DenseSpec(), reason="left out by the mixer")
                entries[projection] = left_out


def _protected(model: nn.Module, found: Iterable[Site], heads: bool) -> dict[str, str]:
    tied = {id(model.get_submodule(name)) for name in tied_layers(model)}
    output = getattr(model, "get_output_embeddings", lambda: None)()
    reasons = {}
    for site in (s for s in found if s.place == "linear"):
        module = dense_at(model, site.name)
        if id(module) in tied:
            reasons[site.name] = "tied"
        elif heads and (site.role == "head" or module is output):
            reasons[site.name] = "head"
    return reasons


def _check_rules(rules: Sequence[Rule], found: Sequence[Site], shielded: Mapping[str, str], model: str) -> None:
    if rules and not found:
        raise ValueError(f"{model} has no dense layer inside; if it is converted already, revert_(model) first")
    if any(r.spec.place == "attention" for r in rules) and all(site.place == "linear" for site in found):
        raise ValueError(f"{model} has no attention inside whose core could be exchanged, or all of them are already")
    for number, r in enumerate(rules, start=1):
        selected = [site.name for site in found if r.selects(site)]
        if not selected:
            what = "attention" if r.spec.place == "attention" else "dense layer"
            fitting = [site for site in found if r.spec.place in ("any", site.place)]
            raise ValueError(f"rule {number} ({r}) matched no {what} of {model}; {_proposal(r, fitting)}")
        if r.spec.changes and all(name in shielded for name in selected):
            why = ", ".join(f"{name} ({shielded[name]})" for name in selected[:3])
            raise ValueError(
                f"rule {number} ({r}) selects protected layers only: {why}. Heads can be converted with "
                "make_plan(..., protect=False); tied layers must be untied first"
            )


def _proposal(r: Rule, found: Sequence[Site]) -> str:
    """The names, roles or depths that the user may have meant."""
    if r.role is not None and not any(Rule(r.spec, role=r.role).selects(site) for site in found):
        return nearest(r.role, sorted({site.role for site in found}))
    if r.match is not None and not any(Rule(r.spec, match=r.match).selects(site) for site in found):
        tails = {"*." + site.name.rpartition(".")[2] for site in found}
        names = tails if r.match.startswith("*") else tails | {site.name for site in found}
        return nearest(r.match, sorted(names))
    depths = {site.stack: site.depth for site in found if site.stack}
    return "layers there are: " + ", ".join(f"{stack} 0..{depth - 1}" for stack, depth in depths.items())
