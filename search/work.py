"""What do the parts of a model compute and store, once a plan is carried out? One counted forward of a packed copy."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from shiftadd_transformers.cost import AttentionShape, LinearShape, Row, count_ops
from shiftadd_transformers.cost.report import sum_rows
from shiftadd_transformers.hf import convert_, pack_
from shiftadd_transformers.plan import Plan
from shiftadd_transformers.specs import DenseSpec, SoftmaxSpec, Spec

Inputs = Mapping[str, Any]
REST = ""
"""Stands for everything outside of the sites."""


@dataclass(frozen=True)
class Work:
    """What a packed model, or a part of it, computes in one forward, and what it takes to store it.

    Attributes:
        row: Operations and bytes moved.
        linears: The sites among its linear layers, with how they compute.
        stored_bytes: Of its tensors in a checkpoint; tied tensors once.
        attentions: Calls of attentions, with how they compute.
    """

    row: Row
    linears: tuple[tuple[Spec, LinearShape], ...]
    stored_bytes: int
    attentions: tuple[tuple[Spec, AttentionShape], ...] = ()

    def __add__(self, other: Work) -> Work:
        """Both together."""
        row = sum_rows("", "", [self.row, other.row])
        attentions = self.attentions + other.attentions
        return Work(row, self.linears + other.linears, self.stored_bytes + other.stored_bytes, attentions)


def count_parts(model: nn.Module, plan: Plan, inputs: Inputs, sites: Iterable[str]) -> dict[str, Work]:
    """Convert a copy of a model, pack it, and count one forward, site by site.

    Args:
        model: Dense; not changed.
        plan: What becomes of it.
        inputs: Keyword inputs of the forward.
        sites: Names of modules; what happens inside counts for the innermost one.

    Returns:
        Site → what it computes and stores; `REST` → everything else.
    """
    packed = pack_(convert_(copy.deepcopy(model), plan))
    names = frozenset(sites)
    rows: dict[str, list[Row]] = {name: [] for name in (REST, *names)}
    for row in count_ops(packed, **inputs).rows:
        rows[_innermost(row.module, names)].append(row)
    stored = _stored_bytes(packed, names)
    entries = plan.entries
    return {
        name: Work(
            sum_rows("", "", parts),
            tuple(
                (entries[name].spec if name in entries else DenseSpec(), shape)
                for row in parts
                for shape in row.linears
                if name != REST
            ),
            stored[name],
            tuple(
                (entries[name].spec if name in entries else SoftmaxSpec(), shape)
                for row in parts
                for shape in row.attentions
                if name != REST
            ),
        )
        for name, parts in rows.items()
    }


def _innermost(module: str, names: frozenset[str]) -> str:
    """The site that a module is, or lies in."""
    while module and module not in names:
        module = module.rpartition(".")[0]
    return module or REST


def _stored_bytes(model: nn.Module, names: frozenset[str]) -> dict[str, int]:
    found = dict.fromkeys((REST, *names), 0)
    seen: set[int] = set()
    computed = getattr(model, "_keys_to_ignore_on_save", None) or ()  # transformers leaves them out of checkpoints
    for key, tensor in model.state_dict().items():
        storage = int(tensor.untyped_storage()._cdata)
        if storage not in seen and key not in computed:
            seen.add(storage)
            found[_innermost(key, names)] += tensor.numel() * tensor.element_size()
    return found
