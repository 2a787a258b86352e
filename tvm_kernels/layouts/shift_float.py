"""Weights of the shift layer that adds to exponents: words of signed powers of two.

A product with ``±2**p`` adds ``p`` to the exponent of a float and may flip its sign: one integer addition to its bits.
So a weight is stored as its powers, one field each: the sign in the highest bit, below it ``p`` (or ``p + 1`` where a
field can be empty, which is 0). Fields have four bits, or eight where exponents need more than three.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from shiftadd_transformers.operators import Po2Format

from .shift import block_count

CHUNK = 32
"""Columns that are summed before the sum is scaled and put aside, which keeps rounding errors from piling up."""

_WORD = 32


@dataclass(frozen=True)
class FieldFormat:
    """How the powers of a weight lie in a word.

    Args:
        bits: bits of a field, 4 or 8.
        terms: fields of a weight.
        empty: whether a field can be empty.
    """

    bits: int
    terms: int
    empty: bool

    @classmethod
    def of(cls, fmt: Po2Format) -> FieldFormat:
        """The fields that hold every weight of a format.

        >>> FieldFormat.of(Po2Format(4, terms=2)), FieldFormat.of(Po2Format(5, zero=False))
        (FieldFormat(bits=4, terms=2, empty=True), FieldFormat(bits=8, terms=1, empty=False))
        """
        largest = fmt.top.bit_length() - 1 + fmt.zero
        return cls(4 if largest < 8 else 8, fmt.terms, fmt.zero)

    @property
    def columns(self) -> int:
        """Weights in one word; fields that are left over stay empty."""
        return _WORD // (self.bits * self.terms) if self.terms < 3 else 2

    def fields(self, fmt: Po2Format) -> Tensor:
        """The fields of every code of a format, int64 ``[2**bits, terms]``."""
        rest, fields = torch.tensor(fmt.magnitudes), []
        for _ in range(self.terms):
            power = torch.tensor([int(v).bit_length() - 1 for v in rest.tolist()])
            fields.append(power + self.empty)
            rest = rest - torch.where(rest > 0, 1 << power.clamp(min=0), 0)
        positive = torch.stack(fields, 1)
        return torch.cat([positive, positive | 1 << (self.bits - 1)])


@dataclass(frozen=True)
class FloatShiftShape:
    """Static shape of one kernel.

    Args:
        blocks: rows of ``lanes`` outputs.
        chunks: runs of columns that are summed before they are scaled.
        per_group: chunks that share a scale.
        words: words of a chunk per output.
        lanes: outputs of one block.
        fields: how powers lie in a word.
        bias: whether a bias is added.
        rows: rows of one tile.
        many_rows: whether there are many tiles.
    """

    blocks: int
    chunks: int
    per_group: int
    words: int
    lanes: int
    fields: FieldFormat
    bias: bool
    rows: int = 1
    many_rows: bool = False


@dataclass(frozen=True)
class NormalRows:
    """Static shape of normalised rows.

    Args:
        chunks: runs of columns.
        size: columns of a run that mean something.
        width: columns of a run with padding, a multiple of eight.
    """

    chunks: int
    size: int
    width: int

    @classmethod
    def of(cls, k: int, group_size: int) -> NormalRows:
        """Runs that share a group evenly, of at most :data:`CHUNK` columns where the group's size allows.

        >>> NormalRows.of(300, 0), NormalRows.of(300, 100)
        (NormalRows(chunks=10, size=32, width=32), NormalRows(chunks=12, size=25, width=32))
        """
        group = group_size if 0 < group_size < k else 0
        size = min(CHUNK, k or 1) if not group else max(d for d in range(1, CHUNK + 1) if group % d == 0)
        size = group if group and size < 8 else size
        return cls(-(-k // size) or 1, size, -(-size // 8) * 8)

    def per_group(self, group_size: int) -> int:
        """Runs of one scale group; ``group_size`` 0 means a single group."""
        return min(group_size // self.size or self.chunks, self.chunks)

    def pad(self, columns: Tensor) -> Tensor:
        """``[R, K]`` as ``[R, chunks, width]`` with zeros in the gaps; a view where there are none."""
        k = columns.shape[-1]
        if k == self.chunks * self.width:
            return columns.view(-1, self.chunks, self.width)
        grouped = F.pad(columns, (0, self.chunks * self.size - k)).unflatten(-1, (self.chunks, self.size))
        return F.pad(grouped, (0, self.width - self.size))


def tile_words(codes: Tensor, fmt: Po2Format, rows: NormalRows, lanes: int) -> Tensor:
    """Codes ``[N, K]`` as int32 ``[blocks, chunks, words, lanes]``, the fields of a word from its lowest bit up.

    Columns behind a chunk meet activations that are zero, so their fields do not matter.
    """
    n, layout = codes.shape[0], FieldFormat.of(fmt)
    padded = rows.pad(F.pad(codes, (0, 0, 0, block_count(n, lanes) * lanes - n)))
    fields = layout.fields(fmt)[padded.long()]
    words = fields.view(-1, lanes, rows.chunks, rows.width // layout.columns, layout.columns * layout.terms)
    word = (words << (torch.arange(words.shape[-1]) * layout.bits)).sum(-1)
    return word.permute(0, 2, 3, 1).to(torch.int32).contiguous()
