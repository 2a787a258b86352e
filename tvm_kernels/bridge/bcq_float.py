"""Weights of the binary-coded layer in floats.

A scale that few outputs share is multiplied to sums. One that many share is multiplied to the inputs, before tables
are made: the planes of a row group are then columns of one plane with a scale of one.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from tvm_ffi import from_dlpack

from shiftadd_transformers.operators.packing import unpack_planes
from shiftadd_transformers.operators.po2 import from_po2_terms

from ..kernels import Kernel
from ..layouts.activation import RowTiles
from ..layouts.bcq_float import SignRuns, SignTablesShape, SumShape, table_entries, tile_scales, tile_signs
from .machine import machine
from .rows import KeptBuffers, TileKernels, tiled_bias, whole_rows

_MANY_OUTPUTS = 32
"""From here on scaling the inputs of a row group costs less than scaling its sums."""
_MOST_ROWS = 48
"""Rows whose tables are built at once: as many bytes as a few megabytes of cache hold."""


class SignWeight:
    """Signs in tiles, the scales of their sums, and the kernels that read them.

    Args:
        signs: ±1 ``[P, N, K]``.
        scales: float32 ``[P, N, runs]``, or None for ones.
        bias: ``[N]`` or None.
        runs: the columns in runs.
    """

    def __init__(self, signs: Tensor, scales: Tensor | None, bias: Tensor | None, runs: SignRuns) -> None:
        planes, self.n, _ = signs.shape
        target = machine()
        words = tile_signs(signs, runs, target.lanes)
        ones = words.new_ones(len(words), 1, planes, target.lanes, dtype=torch.float32)
        scales = ones if scales is None else tile_scales(scales, target.lanes)
        self._runs, self._entries = runs, table_entries(target)
        self._blocks = (len(words), target.lanes)
        self._operands = [from_dlpack(t) for t in (words, scales, tiled_bias(bias, self.n, target.lanes))]
        shape = SumShape(
            self._entries, len(words), runs.runs, runs.words, planes, target.lanes, scales is not ones, bias is not None
        )
        self._kernels = TileKernels("bcq_sums", shape)
        self._tables = Kernel("sign_tables", SignTablesShape(runs.quads, self._entries), target).function()
        self._buffers = KeptBuffers(lambda m: torch.empty(RowTiles.of(m).total, runs.quads, self._entries))

    def product(self, x: Tensor) -> Tensor:
        """Float32 rows ``[M, K]`` to ``[M, N]``."""
        m, cut, runs = len(x), RowTiles.of(len(x)), self._runs
        tables = self._buffers(m)
        self._tables(runs.pad(x).view(m, runs.quads, 4), tables[:m])
        tiled = tables.view(cut.tiles, cut.rows, runs.runs, runs.words, -1, self._entries)
        y = torch.empty(cut.tiles, cut.rows, *self._blocks)
        self._kernels(cut)(tiled, *self._operands, y)
        return whole_rows(y, m, self.n)


class FloatWeight:
    """A weight whose sums are floats."""

    def __init__(
        self, planes_packed: Tensor, scale_codes: Tensor, bias: Tensor | None, k: int, row_group: int, col_group: int
    ) -> None:
        signs, alpha = unpack_planes(planes_packed, k), from_po2_terms(scale_codes)
        planes, n, _ = signs.shape
        if n == 0 or row_group < min(_MANY_OUTPUTS, n):
            runs = SignRuns.of(k, col_group)
            scales = F.pad(alpha, (0, int(k == 0)))[:, torch.arange(n) // row_group][:, :, runs.starts() // col_group]
            self._parts = [(None, SignWeight(signs, scales, bias, runs))]
            return
        runs = SignRuns.of(planes * k, planes * k)
        columns = alpha[:, :, torch.arange(k) // col_group]
        vectors = [None] * alpha.shape[1] if bias is None else bias.split(row_group)
        self._parts = [
            (columns[:, group], SignWeight(part.transpose(0, 1).flatten(1).unsqueeze(0), None, vector, runs))
            for group, (part, vector) in enumerate(zip(signs.split(row_group, 1), vectors, strict=True))
        ]

    def product(self, x: Tensor) -> Tensor:
        """Float32 rows ``[M, K]`` to ``[M, N]``."""
        if len(x) > _MOST_ROWS:
            return torch.cat([self.product(rows) for rows in x.split(_MOST_ROWS)])
        products = [
            part.product(x if scale is None else (x.unsqueeze(1) * scale).flatten(1)) for scale, part in self._parts
        ]
        return products[0] if len(products) == 1 else torch.cat(products, 1)
