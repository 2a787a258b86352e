"""Where does the work happen? One forward pass under a dispatch mode, with hooks that name the module."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..layers.attention import AttentionCore
from ..layers.base import OperatorModule
from ..operators.counts import OpCounts
from .attention import attention_row
from .formulas import COPIES, FORMULAS, Work, base_name
from .operators import operator_row
from .report import CostReport, LinearShape, Row

ROOT = "(model)"


def count_ops(model: nn.Module, *args: Any, **kwargs: Any) -> CostReport:
    """Count what one forward pass of ``model(*args, **kwargs)`` computes and moves.

    The pass runs in evaluation mode without gradients; the training mode of every module is restored. Layers
    of this library are counted by their own formula, whatever the eager implementation does inside;
    everything else operator by operator. A latent layer is charged with the arithmetic that it stands for and
    the bytes that it holds now: pack a model before quoting its bytes.

    Bytes: a stored tensor is read once per forward, however often it is used or tied, and at the width that
    it is stored in; an embedding reads the rows that it gathers. Every counted operator reads its activations
    and writes its result; views, copies and index arithmetic are free.

    Args:
        model: Any module.
        *args: Its inputs. For a sequence-to-sequence model, source and target of the lengths to be counted.
        **kwargs: Its keyword inputs.

    Returns:
        Rows per module and kind, totals, energy.

    Examples:
        >>> report = count_ops(nn.Linear(4, 3), torch.zeros(2, 4))
        >>> report.total.counts
        OpCounts(multiply=24, add=24, shift=0, lookup=0)
        >>> report.total.weight_bytes
        60
    """
    counter = _Counter(model)
    with _evaluating(model), _hooked(model, counter), torch.no_grad(), counter:
        model(*args, **kwargs)
    return CostReport(tuple(counter.rows.values()), dict(counter.uncounted))


class _Counter(TorchDispatchMode):
    """Sees every operator below autograd, where composite functions have become the ones that compute."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.rows: dict[tuple[str, str], Row] = {}
        self.uncounted: Counter[str] = Counter()
        self.stack: list[str] = [ROOT]
        self.inside_operator = 0
        self.charged: set[int] = set()
        self.stored = list(model.parameters()) + list(model.buffers())
        # Bytes of each stored storage that have not been read yet. Ties share a storage and so are read once.
        self.unread = {_key(t): _held_bytes(t) for t in self.stored}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if not self.inside_operator:
            self.see(func, args, kwargs, out)
        return out

    def see(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> None:
        """Charge one operator to the module that is running."""
        inputs = _tensors((args, kwargs))
        results = _tensors(out)
        if func.is_view or not inputs or not results:
            return
        name = base_name(func)
        floating = any(t.is_floating_point() for t in results)
        complex_ = any(t.is_complex() for t in results)  # every formula here is for real numbers
        if name in FORMULAS and not complex_ and (floating or name == "_int_mm"):
            self.charge(FORMULAS[name](args, kwargs, results[0]), inputs, results[0])
        elif name in COPIES or not (floating or complex_):
            self.copy(inputs, results[0])
        else:
            self.uncounted[str(func.overloadpacket)] += 1
            self.charge(Work("uncounted", OpCounts()), inputs, results[0])

    def charge(self, work: Work, inputs: list[Tensor], out: Tensor) -> None:
        """Add the work, the unread bytes of stored inputs, and the activations in and out."""
        weights: dict[str, int] = defaultdict(int)
        moved: dict[str, int] = defaultdict(int)
        for tensor in inputs:
            if self.is_stored(tensor):
                weights[_type(tensor)] += self.read(tensor, out.numel() if work.gathered else None)
            else:
                moved[_type(tensor)] += _span_bytes(tensor)
        moved[_type(out)] += _span_bytes(out)
        operand = _type(next((t for t in inputs if t.is_floating_point()), inputs[0]))
        kind, linears = self.which_product(work)
        attentions = (work.attention,) if work.attention else ()
        self.add(Row(self.stack[-1], kind, {operand: work.counts}, dict(weights), dict(moved), linears, attentions))

    def which_product(self, work: Work) -> tuple[str, tuple[LinearShape, ...]]:
        """A product with a stored operand is a dense layer, whichever side the weight is on."""
        shape = work.linear
        if shape is None or work.pair is None:
            return work.kind, (shape,) if shape else ()
        first, second = map(self.is_stored, work.pair)
        if second:
            return "dense", (shape,)
        if first:
            return "dense", (replace(shape, rows=shape.out_features, out_features=shape.rows),)
        return work.kind, ()

    def copy(self, inputs: list[Tensor], out: Tensor) -> None:
        """Nothing is computed, but stored tensors are read; a cast weight stays a weight."""
        stored = [t for t in inputs if self.is_stored(t)]
        for tensor in stored:
            if nbytes := self.read(tensor, out.numel()):
                self.add(Row(self.stack[-1], "copy", weights={_type(tensor): nbytes}))
        if stored and len(stored) == len(inputs) and not self.is_stored(out):
            self.unread[_key(out)] = 0
            self.stored.append(out)  # kept alive, so that its storage's identity is not given to another

    def is_stored(self, tensor: Tensor) -> bool:
        """Whether this is a parameter, a buffer, a view or a cast of one."""
        return _key(tensor) in self.unread

    def read(self, tensor: Tensor, values: int | None = None) -> int:
        """Bytes that accessing so many values brings in: what has not been read before in this forward."""
        wanted = tensor.numel() if values is None else values
        nbytes = min(wanted * tensor.element_size(), _span_bytes(tensor), self.unread[_key(tensor)])
        self.unread[_key(tensor)] -= nbytes
        return nbytes

    def enter_operator(self) -> None:
        """From here on a layer or a core of ours runs; its inner operators are its own business."""
        self.inside_operator += 1

    def leave_operator(self, name: str, module: OperatorModule | AttentionCore, inputs: Any, out: Any) -> None:
        """Charge it by its own formula."""
        self.inside_operator -= 1
        tensors, results = _tensors(inputs), _tensors(out)
        if self.inside_operator or not tensors or not results:
            return
        first = id(module) not in self.charged
        self.charged.add(id(module))
        if isinstance(module, AttentionCore):
            query, key, value = tensors[:3]
            self.add(attention_row(name, module, query, key, value, first))
        else:
            self.add(operator_row(name, module, tensors[0], results[0], first))

    def add(self, row: Row) -> None:
        """Join rows of the same module and kind."""
        key = (row.module, row.kind)
        self.rows[key] = self.rows[key] + row if key in self.rows else row


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, and no fused encoder kernel that would hide its parts; both restored."""
    training = {module: module.training for module in model.modules()}
    fused = torch.backends.mha.get_fastpath_enabled()
    model.eval()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for module, was in training.items():
            module.training = was


@contextmanager
def _hooked(model: nn.Module, counter: _Counter) -> Iterator[None]:
    """Keep the counter's stack of running modules."""
    handles = []
    for name, module in model.named_modules():
        handles += _hook(name or ROOT, module, counter)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hook(name: str, module: nn.Module, counter: _Counter) -> list[Any]:
    def before(module: nn.Module, args: Any, kwargs: Any) -> None:
        counter.stack.append(name)
        if isinstance(module, OperatorModule | AttentionCore):
            counter.enter_operator()

    def after(module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
        if isinstance(module, OperatorModule | AttentionCore):
            counter.leave_operator(name, module, (args, kwargs), out)
        counter.stack.pop()

    return [
        module.register_forward_pre_hook(before, with_kwargs=True, prepend=True),
        module.register_forward_hook(after, with_kwargs=True, always_call=True),
    ]


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _key(tensor: Tensor) -> int:
    """Identity of a tensor's storage."""
    return int(tensor.untyped_storage()._cdata)


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _held_bytes(tensor: Tensor) -> int:
    return int(tensor.untyped_storage().nbytes())


def _span_bytes(tensor: Tensor) -> int:
    """Bytes that hold the tensor's values: an expanded view repeats them without storing more."""
    return min(tensor.numel() * tensor.element_size(), _held_bytes(tensor))
