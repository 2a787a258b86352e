"""Weights of the shift layer: codes in tiles, and the codebook that gives them their meaning.

The kernel does not know about powers of two. A code of up to five bits selects an entry of a table of small integers,
so that one kernel serves every format whose levels are integers times a scale: powers of two, APoT, FP4 (e2m1), int4.

Entries are held in bytes that the machine's dot product takes. Where it multiplies unsigned by signed bytes (x86),
all levels are raised by ``offset`` so that none is negative, and ``offset * sum(codes)`` is taken off at the end.
Levels that span more than 128 are cut into pieces of seven bits, each with its own table and its own sum.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..targets import Target
from .activation import RowsShape

_PIECE_BITS = 7
_STEP = 8  # columns of one inner step: two halves of four


@dataclass(frozen=True)
class ShiftShape:
    """Static shape of one shift kernel.

    Args:
        blocks: rows of ``lanes`` outputs.
        groups: scale groups along K.
        steps: inner steps of eight columns per group.
        lanes: outputs of one block.
        code_bits: 4 or 8, the room of one code.
        pieces: tables per codebook.
        raised: whether levels are raised to unsigned bytes.
        bias: whether a bias is added.
        rows: rows of one tile.
        many_rows: whether there are many tiles, so that decoded codes are used again and again.
    """

    blocks: int
    groups: int
    steps: int
    lanes: int
    code_bits: int
    pieces: int
    raised: bool
    bias: bool
    rows: int = 1
    many_rows: bool = False

    @property
    def bytes_per_step(self) -> int:
        """Bytes of packed codes per block and step."""
        return _STEP * self.lanes * self.code_bits // 8

    @property
    def words(self) -> int:
        """64-bit words of one table: 16 entries, or 32 for wide codes."""
        return 2 if self.code_bits == 4 else 4


@dataclass(frozen=True)
class Codebook:
    """Integer levels, one per code, in the form that a target's kernel reads.

    Args:
        tables: int64 ``[pieces, words]``, eight byte entries per word.
        offset: int32 ``[1]``, what all levels were raised by.
        code_bits: 4 or 8.
        raised: whether entries are unsigned bytes.
    """

    tables: Tensor
    offset: Tensor
    code_bits: int
    raised: bool

    @classmethod
    def of(cls, levels: Tensor, target: Target) -> Codebook:
        """Tables for ``levels``, integers ``[2**bits]`` with up to 32 entries."""
        code_bits = 4 if len(levels) <= 16 else 8
        entries = F.pad(levels.to(torch.int64), (0, (16 if code_bits == 4 else 32) - len(levels)))
        low, high = int(levels.min()), int(levels.max())
        signed = not target.has("avx2") and low >= -128 and high <= 127
        if signed:
            return cls(_words(entries.unsqueeze(0)), torch.zeros(1, dtype=torch.int32), code_bits, False)
        raised = (entries - low).clamp(0, high - low)
        count = 1 if high - low <= 128 else -(-(high - low).bit_length() // _PIECE_BITS)
        shifts = torch.arange(count).unsqueeze(1) * _PIECE_BITS
        pieces = (raised >> shifts) & 127 if count > 1 else raised.unsqueeze(0)
        return cls(_words(pieces), torch.tensor([-low], dtype=torch.int32), code_bits, True)


def tile_codes(codes: Tensor, rows: RowsShape, lanes: int, code_bits: int) -> Tensor:
    """Codes ``[N, K]`` as uint8 ``[blocks, groups, steps, bytes]``.

    In a step, byte ``4*n + j`` of half ``h`` belongs to output ``n`` and column ``4*h + j``; with four bits per code
    both halves share a byte. Columns behind a group meet activations that are zero, so their codes do not matter.
    """
    n = codes.shape[0]
    grouped = rows.pad(F.pad(codes, (0, 0, 0, block_count(n, lanes) * lanes - n)))
    steps = grouped.view(-1, lanes, rows.groups, rows.width // _STEP, 2, 4).permute(0, 2, 3, 4, 1, 5)
    halves = steps.reshape(*steps.shape[:4], 4 * lanes)
    if code_bits == 8:
        return halves.flatten(-2).contiguous()
    return (halves[..., 0, :] | (halves[..., 1, :] << 4)).contiguous()


def tile_columns(values: Tensor, lanes: int, fill: float = 0.0) -> Tensor:
    """Per-output values ``[N, G]`` as ``[blocks, G, lanes]``."""
    n = values.shape[0]
    padded = F.pad(values, (0, 0, 0, block_count(n, lanes) * lanes - n), value=fill)
    return padded.view(-1, lanes, values.shape[1]).transpose(1, 2).contiguous()


def block_count(n: int, lanes: int) -> int:
    """Blocks of ``lanes`` outputs; a multiple of four as soon as there are that many, so that tiles divide them.

    >>> block_count(16, 16), block_count(100, 16)
    (1, 8)
    """
    blocks = max(1, -(-n // lanes))
    return blocks if blocks < 4 else -(-blocks // 4) * 4


def _words(entries: Tensor) -> Tensor:
    """Byte entries ``[pieces, 8*words]`` as int64 ``[pieces, words]``."""
    return (entries & 255).to(torch.uint8).contiguous().view(torch.int64)
