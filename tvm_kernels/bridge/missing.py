"""The error of an operator that no kernel serves."""

from __future__ import annotations

import torch
from torch import Tensor


class MissingKernelError(RuntimeError):
    """A kernel was asked for and there is none; the message says what to do."""


def refuse_float64(operator: str, *operands: Tensor) -> None:
    """Kernels compute in float32, which would lose what float64 was chosen for.

    Raises:
        MissingKernelError: an operand is float64.
    """
    if any(operand.dtype == torch.float64 for operand in operands):
        raise MissingKernelError(f"{operator} has no kernel for float64: use float32, or PyTorch with kernels disabled")
