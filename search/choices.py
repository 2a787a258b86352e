"""What stands in a supernet where a plan has one operator? All of them, one chosen at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shiftadd_transformers.convert import make_core
from shiftadd_transformers.layers import dense_weight
from shiftadd_transformers.layers.attention import AttentionCore
from shiftadd_transformers.layers.base import dense_bias, make_dense
from shiftadd_transformers.plan import Entry
from shiftadd_transformers.specs import SoftmaxSpec, Spec

from .leading import empty_core, leading, leading_part
from .views import View, computed, filled, stand_in, whole_layer


class ChoiceLinear(nn.Module):
    """A linear layer that computes as one of several operators.

    Args:
        dense: The layer whose place it takes.
        specs: The operators.
        shared: Whether they share one stored tensor, or each have weights of their own.

    Attributes:
        weight: The shared tensor `[N, K]`; None without sharing.
        operators: One view, or one whole layer, per spec.
        chosen: Which of them computes.
        size: `(N, K)` of what computes: the leading rows and columns. Zeros stand where more rows are expected.
        outputs: How many rows are expected.
    """

    weight: nn.Parameter | None
    operators: nn.ModuleList

    def __init__(self, dense: nn.Module, specs: Sequence[Spec], *, shared: bool = True) -> None:
        super().__init__()
        weight, bias = dense_weight(dense).detach(), dense_bias(dense)
        self.specs, self.chosen = tuple(specs), 0
        self._dense_type, self.size, self.outputs = type(dense), tuple(weight.shape), weight.shape[0]
        self._shape = weight.shape
        self.register_parameter("weight", nn.Parameter(weight.clone().contiguous()) if shared else None)
        make = View if shared else _separate
        self.operators = nn.ModuleList(make(spec, weight, bias) for spec in specs)
        self.train(dense.training)

    def forward(self, x: Tensor) -> Tensor:
        """`x [..., K]` to `[..., N]`."""
        n, _ = self.size
        if not n:
            return x.new_zeros(()).expand(*x.shape[:-1], self.outputs)
        operator: Any = self.operators[self.chosen]
        if self.weight is None:
            y = computed(x, operator, self.specs[self.chosen], torch.empty(self.size, device="meta"), {})
        else:
            y = operator(x, leading(self.weight, self.size))
        return F.pad(y, (0, self.outputs - n)) if n < self.outputs else y

    def extracted(self, dense: nn.Module) -> nn.Module:
        """The chosen operator as a layer of its own, in the place of what `dense()` gave, or of its first rows."""
        operator = self.operators[self.chosen]
        if isinstance(operator, View):
            return operator.extracted(dense)
        return filled(dense, self.specs[self.chosen], operator.state_dict())

    def dense(self) -> nn.Module:
        """A dense layer with the shared tensor, or with the weights of the dense operator if that is chosen."""
        operator: Any = self.operators[self.chosen]
        if self.weight is not None:
            weight, bias = self.weight.detach(), operator.layer.bias
        elif self.specs[self.chosen].changes:
            weight, bias = torch.zeros(self._shape), operator.bias
        else:
            weight, bias = operator.weight.detach(), operator.bias
        own = None if bias is None else nn.Parameter(bias.detach().clone())
        return make_dense(self._dense_type, weight, own).train(self.training)

    def mismatches(self) -> list[Tensor]:
        """See `View.mismatch`; empty where nothing is mapped."""
        if self.weight is None:
            return []
        found = [view.mismatch(self.weight) for view in self.operators if isinstance(view, View)]
        return [value for value in found if value is not None]


class ChoiceCore(AttentionCore):
    """The core of an attention that computes as one of several, or as ordinary attention.

    Attributes:
        cores: One per spec; nothing in the place of ordinary attention.
        chosen: Which of them computes.
        left: How many heads there are at present; the leading ones.
    """

    cores: nn.ModuleList
    chosen: int
    left: int

    @classmethod
    def of(cls, name: str, model: nn.Module, entry: Entry, specs: Sequence[Spec]) -> ChoiceCore:
        """Cores for the attention of that name, each with its first values."""
        made = [make_core(name, model, replace(entry, spec=spec)) if spec.changes else nn.Identity() for spec in specs]
        core = cls(SoftmaxSpec(), *entry.shape)
        core.cores, core.chosen, core.left = nn.ModuleList(made), 0, core.heads
        return core.train(model.training)

    @property
    def active(self) -> AttentionCore | None:
        """The chosen core; None is ordinary attention."""
        core: Any = self.cores[self.chosen]
        if not isinstance(core, AttentionCore) or self.left == self.heads:
            return core if isinstance(core, AttentionCore) else None
        part: AttentionCore = leading_part(core, empty_core(core, self.left))
        return part


Choice = ChoiceLinear | ChoiceCore


def _separate(spec: Spec, weight: Tensor, bias: Tensor | None) -> nn.Module:
    return whole_layer(stand_in(spec), weight, bias)
