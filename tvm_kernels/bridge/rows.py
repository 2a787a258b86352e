"""What do all linear kernels share? Rows that come in any number and shape, and leave as they came."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from shiftadd_transformers.operators.calling import as_rows

from ..kernels import Kernel
from ..layouts.activation import FEW_ROWS, RowTiles
from ..layouts.shift import tile_columns
from .machine import machine

Buffers = TypeVar("Buffers")


def float_rows(x: Tensor) -> Tensor:
    """``[..., K]`` as compact float32 rows ``[M, K]``; itself where it is one already."""
    if x.ndim == 2 and x.dtype == torch.float32 and x.is_contiguous():
        return x
    return as_rows(x).to(torch.float32).contiguous()


def whole_rows(y: Tensor, m: int, n: int) -> Tensor:
    """The result ``[M, N]`` without the padding of its tiles ``[tiles, rows, blocks, lanes]``."""
    tiles, rows, blocks, lanes = y.shape
    y = y.view(tiles * rows, blocks * lanes)
    return y if y.shape == (m, n) else y[:m, :n].contiguous()


def tiled_bias(bias: Tensor | None, n: int, lanes: int) -> Tensor:
    """A bias ``[N]``, or zeros, as float32 ``[blocks, lanes]``."""
    vector = torch.zeros(n) if bias is None else bias.detach().to(torch.float32)
    return tile_columns(vector.unsqueeze(1), lanes).squeeze(1)


def like_input(y: Tensor, x: Tensor) -> Tensor:
    """The result in the dtype and with the leading axes of the input."""
    y = y if x.dtype == torch.float32 else y.to(x.dtype)
    return y if x.ndim == 2 else y.view(*x.shape[:-1], y.shape[-1])


class TileKernels:
    """The kernels of one weight, one per size of row tile; compiled when they are first needed.

    Args:
        name: the kernel.
        shape: its static shape; ``rows`` and ``many_rows`` are set per tile size.
    """

    def __init__(self, name: str, shape: Any) -> None:
        self._name, self._shape = name, shape
        self._known: dict[tuple[int, bool], Callable[..., None]] = {}

    def __call__(self, cut: RowTiles) -> Callable[..., None]:
        """The kernel for rows cut like this."""
        key = (cut.rows, cut.many)
        known = self._known.get(key)
        if known is None:
            shape = replace(self._shape, rows=cut.rows, many_rows=cut.many)
            known = self._known[key] = Kernel(self._name, shape, machine()).function()
        return known


class KeptBuffers(Generic[Buffers]):
    """Scratch for rows. That for few rows is kept, per thread: allocating it would take longer than a small layer.

    Args:
        make: allocates for a number of rows.
    """

    def __init__(self, make: Callable[[int], Buffers]) -> None:
        self._make = make
        self._kept = threading.local()

    def __call__(self, m: int) -> Buffers:
        """Scratch for ``m`` rows; its content is valid until the same thread asks again."""
        known = getattr(self._kept, "last", None)
        if known is not None and known[0] == m:
            return known[1]
        buffers = self._make(m)
        if m <= FEW_ROWS:
            self._kept.last = (m, buffers)
        return buffers
