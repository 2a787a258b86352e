"""Operands of the binary-coded layer in floats: signs in words, and sums of four inputs that they select.

Four inputs with signs have sixteen sums, which all outputs share: their signs, four bits, select one. The highest sign
is taken out of the others, so that the second half of a table is the first one negated. A word of 32 bits holds the
signs of 32 columns of one output and plane.

Columns are summed in runs, each of which has its own scale per plane and output.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..targets import Target
from .shift import block_count

QUADS = 8
"""Tables that one word of signs looks up in."""
_WORD = 4 * QUADS
_RUN = 512  # columns that are summed before the sum is put aside, which keeps rounding errors from piling up


@dataclass(frozen=True)
class SumShape:
    """Static shape of one kernel that sums what signs select.

    Args:
        entries: entries of a table, 16, or 8 where the highest sign flips them.
        blocks: rows of ``lanes`` outputs.
        runs: runs of columns.
        words: words of a run.
        planes: sign planes.
        lanes: outputs of one block.
        scaled: whether the sum of a run and plane is multiplied by a scale.
        bias: whether a bias is added.
        rows: rows of one tile.
        many_rows: whether there are many tiles.
    """

    entries: int
    blocks: int
    runs: int
    words: int
    planes: int
    lanes: int
    scaled: bool
    bias: bool
    rows: int = 1
    many_rows: bool = False


@dataclass(frozen=True)
class SignTablesShape:
    """Static shape of the tables of rows: ``quads`` tables of ``entries``."""

    quads: int
    entries: int


@dataclass(frozen=True)
class SignRuns:
    """Columns in runs, each padded to whole words.

    Args:
        runs: number of runs.
        size: columns of a run that mean something.
        words: words of a run.
    """

    runs: int
    size: int
    words: int

    @classmethod
    def of(cls, k: int, group: int) -> SignRuns:
        """Runs of at most 512 columns that do not cross a group, which is a part of K or all of it.

        >>> SignRuns.of(1100, 1100), SignRuns.of(300, 100)
        (SignRuns(runs=3, size=512, words=16), SignRuns(runs=3, size=100, words=4))
        """
        group = min(group, k) or 1
        size = _RUN if group > _RUN and (group % _RUN == 0 or group == k) else group
        return cls(-(-k // size) or 1, size, -(-size // _WORD))

    @property
    def quads(self) -> int:
        """Tables of a row."""
        return self.runs * self.words * QUADS

    def pad(self, columns: Tensor) -> Tensor:
        """``[..., K]`` as ``[..., runs, words * 32]`` with zeros in the gaps; a view where there are none."""
        width = self.words * _WORD
        filled = F.pad(columns, (0, self.runs * self.size - columns.shape[-1]))
        return F.pad(filled.unflatten(-1, (self.runs, self.size)), (0, width - self.size))

    def starts(self) -> Tensor:
        """The first column of every run."""
        return torch.arange(self.runs) * self.size


def table_entries(target: Target) -> int:
    """Entries of a table: what fits a vector register of floats, where an instruction looks up in one."""
    return 16 if target.has("avx512") else 8


def tile_signs(signs: Tensor, runs: SignRuns, lanes: int) -> Tensor:
    """Signs ±1 ``[P, N, K]`` as int32 ``[blocks, runs, words, P, lanes]``.

    Bits ``4*q .. 4*q + 3`` of a word belong to four columns. The highest says that their sum is negated, and the
    others, before that, which of the first three columns are added.
    """
    planes, n, _ = signs.shape
    padded = runs.pad(F.pad((signs > 0).to(torch.int64), (0, 0, 0, block_count(n, lanes) * lanes - n)))
    quads = padded.view(planes, -1, lanes, runs.runs, runs.words, QUADS, 4)
    negated = 1 - quads[..., 3:]
    bits = torch.cat([quads[..., :3] ^ negated, negated], -1).flatten(-2)
    words = (bits << torch.arange(_WORD)).sum(-1)
    return words.permute(1, 3, 4, 0, 2).to(torch.int32).contiguous()


def tile_scales(scales: Tensor, lanes: int) -> Tensor:
    """Scales ``[P, N, runs]`` as float32 ``[blocks, runs, P, lanes]``."""
    planes, n, runs = scales.shape
    padded = F.pad(scales, (0, 0, 0, block_count(n, lanes) * lanes - n))
    return padded.view(planes, -1, lanes, runs).permute(1, 3, 0, 2).contiguous()
