"""How do compiled kernels get behind the torch operators?

Each operator has its PyTorch body, which says what it means, and here a kernel for this machine, which PyTorch's own
dispatcher calls while kernels are switched on. What no kernel serves raises :class:`MissingKernelError`: while kernels are
on, an operator is never computed by anything else.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeVar

import torch
from torch import nn

from shiftadd_transformers.layers import PackedModule
from shiftadd_transformers.operators.shift import _shift_linear

from ..layouts.activation import FEW_ROWS
from . import shift
from .missing import MissingKernelError

__all__ = ["MissingKernelError", "disable", "enable", "enabled", "is_enabled"]

_DEVICE = "cpu"
_KERNELS = {_shift_linear: shift.shift_linear}
_off = ExitStack()
"""Holds every operator's kernel off; closed while kernels are on."""

Model = TypeVar("Model", bound=nn.Module)


def enable(model: Model | None = None) -> Model | None:
    """Switch kernels on for all operators of this process.

    Args:
        model: lays out the packed weights of this model and compiles their kernels now, for one row and for many,
            instead of at the first call. Compiled kernels are kept on disk.

    Returns:
        the model.

    Raises:
        MissingKernelError: some packed modules have no kernel on this machine; the message names them, and kernels stay as
            they were.
    """
    if model is not None:
        _prepare(model)
    _off.close()
    return model


def disable() -> None:
    """Switch kernels off: operators are computed by PyTorch again."""
    if is_enabled():
        for operator in _KERNELS:
            _off.enter_context(operator.set_kernel_enabled(_DEVICE, enabled=False))


def is_enabled() -> bool:
    """Whether kernels are on."""
    return not _off._exit_callbacks


@contextmanager
def enabled() -> Iterator[None]:
    """Kernels are on inside the ``with`` block, and outside as they were."""
    before = is_enabled()
    enable()
    try:
        yield
    finally:
        if not before:
            disable()


def _prepare(model: nn.Module) -> None:
    failures = []
    with enabled(), torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, PackedModule):
                try:
                    for rows in (1, FEW_ROWS + 1):
                        module(torch.zeros(rows, module.in_features, dtype=_float_dtype(module)))
                except MissingKernelError as error:
                    failures.append(f"{name}: {error}")
    if failures:
        raise MissingKernelError("\n".join([f"{len(failures)} modules have no kernel here", *failures]))


def _float_dtype(module: nn.Module) -> torch.dtype:
    floating = (t.dtype for t in (*module.parameters(), *module.buffers()) if t.is_floating_point())
    return next(floating, torch.float32)


for _operator, _kernel in _KERNELS.items():
    _operator.register_kernel(_DEVICE)(_kernel)
    _off.enter_context(_operator.set_kernel_enabled(_DEVICE, enabled=False))
