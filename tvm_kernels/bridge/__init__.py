"""How do compiled kernels get behind the torch operators?

Each operator has its PyTorch body, which says what it means, and here a kernel for this machine, which PyTorch's own
dispatcher calls while kernels are switched on. What no kernel serves raises :class:`MissingKernelError`: while kernels
are on, an operator is never computed by anything else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn

from shiftadd_transformers.layers import PackedModule
from shiftadd_transformers.operators.custom_ops import CUSTOM_OPS

from ..layouts.activation import FEW_ROWS
from . import adder, adder_int8, bcq, binary_attention, head_distances, matadd, shift, token_window
from .missing import MissingKernelError

__all__ = ["KERNELS", "MissingKernelError", "disable", "enable", "enabled", "is_enabled"]

KERNELS: dict[str, Callable[..., Tensor]] = {
    "shiftadd::adder_input_gradient": adder.adder_input_gradient,
    "shiftadd::adder_linear": adder.adder_linear,
    "shiftadd::adder_linear_int8": adder_int8.adder_linear_int8,
    "shiftadd::adder_window": token_window.adder_window,
    "shiftadd::bcq_linear": bcq.bcq_linear,
    "shiftadd::binary_attention": binary_attention.binary_attention,
    "shiftadd::head_distances": head_distances.head_distances,
    "shiftadd::matadd": matadd.matadd,
    "shiftadd::matadd_right": matadd.matadd_right,
    "shiftadd::shift_add_linear": adder_int8.shift_add_linear,
    "shiftadd::shift_linear": shift.shift_linear,
    "shiftadd::token_convolution": token_window.token_convolution,
}
"""What serves each operator, without PyTorch's dispatcher before it."""

_DEVICE = "cpu"
_off = ExitStack()
"""Holds every operator's kernel off; closed while kernels are on."""
_on = False

Model = TypeVar("Model", bound=nn.Module)


def enable(model: Model | None = None) -> Model | None:
    """Switch kernels on for all operators of this process.

    Args:
        model: lays out the packed weights of this model and compiles their kernels now, for one row and for many,
            instead of at the first call. Compiled kernels are kept on disk.

    Returns:
        the model.

    Raises:
        MissingKernelError: some packed modules have no kernel on this machine; the message names them, and kernels
            stay as they were.
    """
    global _on
    if model is not None:
        _prepare(model)
    _off.close()
    _on = True
    return model


def disable() -> None:
    """Switch kernels off: operators are computed by PyTorch again."""
    global _on
    if _on:
        _switch_off()
        _on = False


def is_enabled() -> bool:
    """Whether kernels are on."""
    return _on


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


def _switch_off() -> None:
    for name in KERNELS:
        _off.enter_context(CUSTOM_OPS[name].set_kernel_enabled(_DEVICE, enabled=False))


for _name, _kernel in KERNELS.items():
    CUSTOM_OPS[_name].register_kernel(_DEVICE)(_kernel)
_switch_off()
