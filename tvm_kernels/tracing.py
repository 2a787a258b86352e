"""Which kernels does a layer run on a machine, and with which operands?

The bridge itself is asked: it lays operands out as for a call, and where it would call a kernel it meets one that
writes down what it is given. Nothing is compiled or computed, so it may be any machine. Tuning, remote measurement
and explanations all start from here.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from .bridge import KERNELS, MissingKernelError, enabled
from .bridge.machine import pretend
from .kernels import Kernel, stand_in
from .targets import Target

_found: ContextVar[list[Launch] | None] = ContextVar("_found", default=None)


@dataclass(frozen=True)
class Launch:
    """One call of a kernel.

    Args:
        kernel: what is called.
        operands: what it is given, as they lie in memory; those that it or a kernel before it writes hold anything.
    """

    kernel: Kernel
    operands: tuple[Tensor, ...]

    def arrays(self) -> list[np.ndarray]:
        """The operands with ordinary floats: what happens to lie in a buffer may be slow to compute with."""
        return [_ordinary(operand).numpy() for operand in self.operands]


def launches(layer: nn.Module, rows: int, target: Target) -> list[Launch]:
    """The kernels that a packed layer runs, in order.

    Args:
        layer: a packed layer that never ran, and will be traced for this machine alone: its operands are laid out once.
        rows: rows of its input.
        target: the machine.

    Raises:
        MissingKernelError: it runs an operator that has no kernel.
    """
    found: list[Launch] = []
    token = _found.set(found)
    try:
        with pretend(target), stand_in(_recorder), enabled(), torch.no_grad(), _Operators():
            layer(torch.randn(rows, layer.in_features))
    finally:
        _found.reset(token)
    return found


class _Operators(TorchDispatchMode):
    """Refuses operators of this project that no kernel serves, before PyTorch computes them at its leisure."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().partition(".")[0]
        if name.startswith("shiftadd::") and name not in KERNELS:
            raise MissingKernelError(f"no kernel serves {name}")
        return func(*args, **(kwargs or {}))


def _recorder(kernel: Kernel) -> Callable[..., None]:
    def record(*operands: Any) -> None:
        found = _found.get()
        if found is None:
            raise RuntimeError("this layer was prepared for tracing and cannot compute; make another one")
        found.append(Launch(kernel, tuple(torch.from_dlpack(operand) for operand in operands)))

    return record


def _ordinary(operand: Tensor) -> Tensor:
    if not operand.is_floating_point():
        return operand
    size = operand.abs()
    return torch.where((size > 1e-6) & (size < 1e6), operand, 1.0)
