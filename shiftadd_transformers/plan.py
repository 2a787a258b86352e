"""What becomes of each module of one model?

A plan is the object that travels: conversion carries it out, checkpoints store it, search returns it. It is a value:
it can be printed, compared and written as JSON. It names every dense layer of the model, also those that stay, and the
attentions that change.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from .extents import beyond
from .layers.projections import NarrowProjection
from .sites import aliases
from .specs import Spec, nearest, spec_from_dict

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
        sizes: How much stays of what becomes smaller: outputs of a feed-forward's first layer, heads of an attention,
            layers of a stack. The leading ones stay; the entries say the shapes that are left.
    """

    entries: Mapping[str, Entry] = field(default_factory=dict)
    model: str = ""
    sizes: Mapping[str, int] = field(default_factory=dict)

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
        rows += [(name, "", "", f"first {size}", "") for name, size in self.sizes.items()]
        return "\n".join(_aligned(rows)) + "\n" + self.summary()

    def summary(self) -> str:
        """How many modules and weights each operator takes, how many attentions, and what becomes smaller."""
        linear = [entry for entry in self.entries.values() if entry.spec.place != "attention"]
        modules = Counter(entry.spec.kind for entry in linear)
        weights: Counter[str] = Counter()
        for entry in linear:
            weights[entry.spec.kind] += entry.shape[0] * entry.shape[1]
        total = sum(weights.values()) or 1
        parts = [f"{kind}: {modules[kind]} modules, {w / total:.0%} of weights" for kind, w in weights.items()]
        cores = Counter(entry.spec.kind for entry in self.entries.values() if entry.spec.place == "attention")
        parts += [f"{kind}: {count} attentions" for kind, count in cores.items()]
        smaller = Counter((name.rpartition(".")[2], size) for name, size in self.sizes.items())
        return "; ".join([*parts, *(f"{n} × first {size} of {part}" for (part, size), n in smaller.items())])

    def then(self, later: Plan) -> Plan:
        """This plan, and what a later one made of the modules that this one left dense, and of their sizes."""

        def stays(name: str) -> bool:
            return not any(beyond(name, stack, size) for stack, size in later.sizes.items())

        entries = {**self.entries, **{n: e for n, e in later.entries.items() if n not in self.converted}}
        sizes = {**self.sizes, **later.sizes}
        return Plan(
            {name: entry for name, entry in entries.items() if stays(name)},
            self.model,
            {name: size for name, size in sizes.items() if stays(name)},
        )

    def diff(self, other: Plan) -> str:
        """What differs from another plan, a line per module; empty if nothing does."""
        rows = []
        for name in dict.fromkeys([*self.entries, *other.entries]):
            ours, theirs = (str(p.entries[name].spec) if name in p.entries else "absent" for p in (self, other))
            if ours != theirs:
                rows.append((name, ours, "→", theirs))
        for name in dict.fromkeys([*self.sizes, *other.sizes]):
            ours, theirs = (f"first {p.sizes[name]}" if name in p.sizes else "whole" for p in (self, other))
            if ours != theirs:
                rows.append((name, ours, "→", theirs))
        return "\n".join(_aligned(rows))

    def to_dict(self, converted_only: bool = False) -> dict[str, Any]:
        """JSON form. `converted_only` leaves out the modules that stay dense."""
        kept = self.converted if converted_only else self.entries
        modules = {name: entry.to_dict() for name, entry in self.entries.items() if name in kept}
        data = {"format_version": FORMAT_VERSION, "model": self.model, "modules": modules}
        return data | ({"sizes": dict(self.sizes)} if self.sizes else {})

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Plan:
        """Rebuild from the JSON form.

        Raises:
            ValueError: Unknown version, key or operator.
        """
        known = ["format_version", "model", "modules", "sizes"]
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
        sizes = data.get("sizes", {})
        if not isinstance(sizes, Mapping) or not all(type(size) is int and size > 0 for size in sizes.values()):
            raise ValueError(f"a plan's sizes are names with whole numbers from 1, not {sizes!r}")
        return cls(entries, data.get("model", ""), dict(sizes))

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
