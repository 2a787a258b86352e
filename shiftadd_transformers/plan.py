"""What becomes of each module: rules resolved against one model.

A plan is the object that travels: conversion carries it out, checkpoints store it, search returns it. It is a value:
it can be printed, compared and written as JSON. It names every dense layer of the model, also those that stay, and the
attentions that change.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from .layers.projections import NarrowProjection
from .rules import Rule
from .sites import Site, aliases, separate_projections, sites
from .specs import DenseSpec, MixerSpec, Spec, nearest, spec_from_dict

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Entry:
    """One module's decision.

    Args:
        spec: How it computes.
        role: Its part in the architecture.
        shape: `(N, K)` of a dense layer, `(H, E)` of an attention.
        reason: Why it is so, where no rule said it.
    """

    spec: Spec
    role: str
    shape: tuple[int, int]
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        data = {"op": self.spec.to_dict(), "role": self.role, "shape": list(self.shape)}
        return data | ({"reason": self.reason} if self.reason else {})

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Entry:
        """Rebuild from JSON.

        Raises:
            ValueError: A key is unknown or absent.
        """
        known = ["op", "role", "shape", "reason"]
        for key in data:
            if key not in known:
                raise ValueError(f"a plan entry has no key {key!r}; {nearest(key, known)}")
        if not data.keys() >= {"op", "role", "shape"} or len(data["shape"]) != 2:
            raise ValueError(f"a plan entry needs op, role and shape (N, K), not {dict(data)}")
        n, k = data["shape"]
        return cls(spec_from_dict(data["op"]), data["role"], (n, k), data.get("reason", ""))


@dataclass(frozen=True)
class Plan:
    """Module name → decision, for one model.

    Args:
        entries: In module order.
        model: Class name of the model that the plan was made for.
    """

    entries: Mapping[str, Entry] = field(default_factory=dict)
    model: str = ""

    @property
    def converted(self) -> dict[str, Spec]:
        """Only the modules that change."""
        return {name: e.spec for name, e in self.entries.items() if e.spec.changes}

    @property
    def has_cores(self) -> bool:
        """Whether any attention gets another core."""
        return any(spec.place == "attention" for spec in self.converted.values())

    def table(self) -> str:
        """One line per module: name, role, shape, operator, reason."""
        rows = [("module", "role", "N × K", "operator", "")]  # of an attention: heads × width
        for name, entry in self.entries.items():
            rows.append((name, entry.role, "{} × {}".format(*entry.shape), str(entry.spec), entry.reason))
        return "\n".join(_aligned(rows)) + "\n" + self.summary()

    def summary(self) -> str:
        """How many modules and weights each operator takes, and how many attentions."""
        linear = [entry for entry in self.entries.values() if entry.spec.place != "attention"]
        modules = Counter(entry.spec.kind for entry in linear)
        weights: Counter[str] = Counter()
        for entry in linear:
            weights[entry.spec.kind] += entry.shape[0] * entry.shape[1]
        total = sum(weights.values()) or 1
        parts = [f"{kind}: {modules[kind]} modules, {w / total:.0%} of weights" for kind, w in weights.items()]
        cores = Counter(entry.spec.kind for entry in self.entries.values() if entry.spec.place == "attention")
        return "; ".join([*parts, *(f"{kind}: {count} attentions" for kind, count in cores.items())])

    def then(self, later: Plan) -> Plan:
        """This plan, and what a later one made of the modules that this one left dense."""
        return Plan({**self.entries, **{n: e for n, e in later.entries.items() if n not in self.converted}}, self.model)

    def diff(self, other: Plan) -> str:
        """What differs from another plan, a line per module; empty if nothing does."""
        rows = []
        for name in dict.fromkeys([*self.entries, *other.entries]):
            ours, theirs = (str(p.entries[name].spec) if name in p.entries else "absent" for p in (self, other))
            if ours != theirs:
                rows.append((name, ours, "→", theirs))
        return "\n".join(_aligned(rows))

    def to_dict(self, converted_only: bool = False) -> dict[str, Any]:
        """JSON form. `converted_only` leaves out the modules that stay dense."""
        kept = self.converted if converted_only else self.entries
        modules = {name: entry.to_dict() for name, entry in self.entries.items() if name in kept}
        return {"format_version": FORMAT_VERSION, "model": self.model, "modules": modules}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Plan:
        """Rebuild from the JSON form.

        Raises:
            ValueError: Unknown version, key or operator.
        """
        known = ["format_version", "model", "modules"]
        if not isinstance(data, Mapping):
            raise ValueError(f"not a plan: a plan is an object with {', '.join(known)}")
        for key in data:
            if key not in known:
                raise ValueError(f"a plan has no key {key!r}; {nearest(key, known)}")
        if data.get("format_version") != FORMAT_VERSION:
            version = data.get("format_version")
            raise ValueError(f"plan format {version!r} is unknown; this version reads format {FORMAT_VERSION}")
        entries = {}
        for name, entry in data.get("modules", {}).items():
            try:
                entries[name] = Entry.from_dict(entry)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
        return cls(entries, data.get("model", ""))

    def to_json(self) -> str:
        """The whole plan as text."""
        return json.dumps(self.to_dict(), indent=2)

    @classmethod
    def from_json(cls, text: str | Path) -> Plan:
        """Read a plan from JSON text, or from the file that a `Path` names.

        Raises:
            ValueError: It is not a plan, or one with an unknown version, key or operator.
        """
        try:
            data = json.loads(text.read_text() if isinstance(text, Path) else text)
        except json.JSONDecodeError as error:
            raise ValueError(f"not a plan: {error}; give JSON text, or a pathlib.Path to a file with it") from None
        return cls.from_dict(data)


def make_plan(model: nn.Module, rules: Sequence[Rule | Mapping[str, Any]], *, protect: bool = True) -> Plan:
    """Resolve rules against a model.

    Args:
        model: Any module with dense layers. What is converted already is passed over.
        rules: First match wins; a module that no rule matches stays as it is.
        protect: Keep heads dense. Layers whose weight is tied to another module stay dense in any case.

    Returns:
        A decision for every dense layer.

    Raises:
        ValueError: A rule selects nothing, or only protected layers; the message proposes the nearest names.

    >>> model = nn.ModuleDict({"fc1": nn.Linear(8, 8), "lm_head": nn.Linear(8, 9)})
    >>> from shiftadd_transformers import rule
    >>> print(make_plan(model, [rule("*", "shift")]).table())
    module   role    N × K  operator
    fc1      mlp.up  8 × 8  shift
    lm_head  head    9 × 8  dense     protected: head
    shift: 1 modules, 47% of weights; dense: 1 modules, 53% of weights
    """
    ordered = [r if isinstance(r, Rule) else Rule.from_dict(dict(r)) for r in rules]
    found = sites(model)
    shielded = _protected(model, found, protect)
    _check_rules(ordered, found, shielded, type(model).__name__)
    entries = {site.name: _decide(site, ordered, shielded.get(site.name, "")) for site in found}
    _drop_unread(model, entries)
    listed = {s.name: entries[s.name] for s in found if s.place == "linear" or entries[s.name].spec.changes}
    return Plan(listed, type(model).__name__)


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
    owners = Counter(id(p) for _, m in model.named_modules() for p in m._parameters.values() if p is not None)
    output = getattr(model, "get_output_embeddings", lambda: None)()
    reasons = {}
    for site in (s for s in found if s.place == "linear"):
        module = dense_at(model, site.name)
        if owners[id(module.get_parameter("weight"))] > 1:
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


def resolve(plan: Plan, model: nn.Module, *, from_checkpoint: bool = False) -> dict[str, tuple[str, Entry]]:
    """The model's own names for a plan's converted modules: plan name → (model name, entry).

    Names are also tried with and without the model's base prefix; those of a checkpoint's plan without their first
    part, too. Modules that the model lacks are left out.
    """
    modules = dict(model.named_modules())
    found = {}
    for name in plan.converted:
        names = aliases(name, model)
        if from_checkpoint:
            # A checkpoint of CLIPVisionModelWithProjection names `vision_model.encoder`, which CLIPVisionModel calls
            # `encoder`, though its own prefix is `clip`. Tensors that do not fit are reported by the loader.
            names = (*names, name.partition(".")[2])
        own = next((alias for alias in names if alias in modules), None)
        if own is not None:
            found[name] = (own, plan.entries[name])
    return found


def dense_at(model: nn.Module, name: str) -> nn.Module:
    """The layer that a plan's name stands for, seen through a projection that was narrowed."""
    module = model.get_submodule(name)
    return module.linear if isinstance(module, NarrowProjection) and module.linear is not None else module


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
