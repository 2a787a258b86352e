"""Operands of the binary-coded layer with 8-bit tables: codes in tiles, levels, and tables in vector registers.

A column has a table of ``2**planes`` byte entries, and four columns have theirs side by side: so four bytes of a lane
look up four columns of one output. A register holds the tables of as many columns as fit. What selects an entry is its
*place*, the code of a weight behind the offset of its column. Codes of several vectors share bytes, and are stored such
that a shift and a mask bring all bits of a code where a place wants them.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor

from ..targets import Target
from .shift import block_count

COLUMNS = 32
"""K is padded to a multiple of this, which whole steps divide for every number of planes."""
LANES = 16
"""Columns whose tables are built at once."""

Bit = tuple[int, int]
"""A byte of a step and a bit in it."""

# Where the bits of a code lie, from its lowest, for each vector of a step. Three planes: two codes fill six bits of
# each of three bytes, and the bits that are left hold two more.
_PLACES: dict[int, tuple[tuple[Bit, ...], ...]] = {
    1: tuple(((0, v),) for v in range(8)),
    2: tuple(((0, 2 * v), (0, 2 * v + 1)) for v in range(4)),
    3: (
        *(tuple((byte, 3 * half + p) for p in range(3)) for byte in range(3) for half in range(2)),
        ((0, 6), (0, 7), (2, 6)),
        ((1, 6), (1, 7), (2, 7)),
    ),
    4: tuple(tuple((0, 4 * v + p) for p in range(4)) for v in range(2)),
}


@dataclass(frozen=True)
class Part:
    """Bits of a code that one shift of a byte brings into place: ``(bytes[byte] >> shift) & mask``."""

    byte: int
    shift: int
    mask: int


@dataclass(frozen=True)
class LookupShape:
    """Static shape of one look-up kernel.

    Args:
        planes: sign planes, 1 to 4.
        register: bytes of a register that tables are looked up in, 16 or 64.
        blocks: rows of ``lanes`` outputs.
        steps: inner steps along K.
        lanes: outputs of one block.
        negated: whether factors are negative and signed, for machines that multiply signed bytes alone.
        bias: whether a bias is added.
        rows: rows of one tile.
        many_rows: whether there are many tiles.
    """

    planes: int
    register: int
    blocks: int
    steps: int
    lanes: int
    negated: bool
    bias: bool
    rows: int = 1
    many_rows: bool = False

    @property
    def vectors(self) -> int:
        """Vectors of one step; a vector holds four columns of a block."""
        return len(_PLACES[self.planes])

    @property
    def code_bytes(self) -> int:
        """Bytes that hold the codes of a step, per byte of a vector."""
        return code_bytes(self.planes)

    @property
    def registers(self) -> int:
        """Registers that hold the tables of a step."""
        return self.vectors * 4 * table_bytes(self.planes) // self.register

    @property
    def words(self) -> int:
        """64-bit words of a register."""
        return self.register // 8

    @property
    def registers_per_vector(self) -> int:
        """Registers that the columns of one vector are spread over."""
        return max(1, 4 * table_bytes(self.planes) // self.register)

    def parts(self, vector: int) -> tuple[Part, ...]:
        """How the codes of a vector are put together."""
        return _parts(_PLACES[self.planes][vector])


@dataclass(frozen=True)
class TablesShape:
    """Static shape of the tables of rows.

    Args:
        planes: sign planes, 1 to 4.
        chunks: runs of :data:`LANES` columns, padding included.
        negated: see :class:`LookupShape`.
    """

    planes: int
    chunks: int
    negated: bool

    @classmethod
    def of(cls, k: int, planes: int, target: Target) -> TablesShape:
        """The tables of rows of ``k`` columns."""
        chunks = (-(-k // COLUMNS) or 1) * (COLUMNS // LANES)
        return cls(planes, chunks, not target.has("avx2") and target.has("neon", "dotprod"))

    @property
    def columns(self) -> int:
        """Columns with padding."""
        return self.chunks * LANES

    @property
    def word_bits(self) -> int:
        """Bits of the words that a table is made of."""
        return 8 * min(table_bytes(self.planes), 8)

    @property
    def words(self) -> int:
        """Words of a table."""
        return 8 * table_bytes(self.planes) // self.word_bits

    def pad(self, columns: Tensor) -> Tensor:
        """``[R, K]`` as ``[R, chunks, lanes]`` with zeros behind; a view where there are none."""
        return F.pad(columns, (0, self.columns - columns.shape[-1])).view(-1, self.chunks, LANES)


def register_bytes(planes: int, target: Target) -> int:
    """Bytes of the registers that a target looks tables up in: 64 where an instruction does that and they need it."""
    whole = target.has("vbmi") or target.has("neon", "dotprod")
    return 64 if whole and planes > 2 else 16


def table_bytes(planes: int) -> int:
    """Bytes of the table of one column."""
    return 1 << planes


def code_bytes(planes: int) -> int:
    """Bytes that hold the codes of a step."""
    return 1 + max(byte for place in _PLACES[planes] for byte, _ in place)


def tile_lookup_codes(codes: Tensor, planes: int, lanes: int) -> Tensor:
    """Codes ``[N, K]`` as uint8 ``[blocks, steps, code_bytes, 4*lanes]``.

    Byte ``4*n + j`` of vector ``v`` belongs to output ``n`` and column ``4*v + j`` of a step. Columns behind the last
    have tables of zeros, so their codes do not matter.
    """
    n, k = codes.shape
    places = _PLACES[planes]
    width = (-(-k // COLUMNS) or 1) * COLUMNS
    padded = F.pad(codes, (0, width - k, 0, block_count(n, lanes) * lanes - n))
    vectors = padded.view(-1, lanes, width // (4 * len(places)), len(places), 4).permute(0, 2, 3, 1, 4).flatten(-2)
    packed = codes.new_zeros(*vectors.shape[:2], code_bytes(planes), 4 * lanes)
    for vector, place in enumerate(places):
        for plane, (byte, bit) in enumerate(place):
            packed[:, :, byte] |= ((vectors[:, :, vector] >> plane) & 1) << bit
    return packed


def _parts(place: tuple[Bit, ...]) -> tuple[Part, ...]:
    """Runs of bits that one shift brings to their positions.

    >>> _parts(((0, 6), (0, 7), (2, 6)))
    (Part(byte=0, shift=6, mask=3), Part(byte=2, shift=4, mask=4))
    """
    moves = [(byte, bit - position) for position, (byte, bit) in enumerate(place)]
    starts = [0, *(i + 1 for i, (one, other) in enumerate(pairwise(moves)) if one != other), len(moves)]
    return tuple(Part(*moves[start], (1 << end) - (1 << start)) for start, end in pairwise(starts))
