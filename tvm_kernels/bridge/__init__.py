"""How do compiled kernels get behind the torch operators?

Each operator has its PyTorch body, which says what it means, and here a kernel for this machine, which PyTorch's own
dispatcher calls while kernels are switched on. What no kernel serves raises :class:`MissingKernelError`: while kernels are
on, an operator is never computed by anything else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeVar

import torch
from torch import nn

from shiftadd_transformers.layers import PackedModule
from shiftadd_transformers.operators.adder import _adder_linear, _adder_linear_int8, adder_input_gradient
from shiftadd_transformers.operators.bcq import _bcq_linear
from shiftadd_transformers.operators.matadd import _matadd, _matadd_right
from shiftadd_transformers.operators.shift import _shift_linear
from shiftadd_transformers.operators.shift_add import _shift_add_linear

from ..layouts.activation import FEW_ROWS
from . import adder, adder_int8, bcq, matadd, shift
from .missing import MissingKernelError

__all__ = ["MissingKernelError", "disable", "enable", "enabled", "is_enabled", "kernel_of", "served"]

_DEVICE = "cpu"
_KERNELS = {
    _adder_linear: adder.adder_linear,
    _adder_linear_int8: adder_int8.adder_linear_int8,
    adder_input_gradient: adder.adder_input_gradient,
    _bcq_linear: bcq.bcq_linear,
    _matadd: matadd.matadd,
    _matadd_right: matadd.matadd_right,
    _shift_add_linear: adder_int8.shift_add_linear,
    _shift_linear: shift.shift_linear,
}
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


def served() -> frozenset[str]:
    """Names of the operators that have kernels, e.g. ``shiftadd::shift_linear``."""
    return frozenset(operator._qualname for operator in _KERNELS)


def kernel_of(operator: str) -> Callable[..., torch.Tensor] | None:
    """What serves an operator, e.g. ``shiftadd::shift_linear``, without PyTorch's dispatcher before it."""
    return next((kernel for known, kernel in _KERNELS.items() if known._qualname == operator), None)


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
