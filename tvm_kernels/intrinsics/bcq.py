"""Places of entries from packed codes, and the sum of the entries that they select."""

from __future__ import annotations

from functools import cache

from tvm.script import tirx as T

from ..compute.bcq import places, register, selected
from ..layouts.bcq import LookupShape, table_bytes
from ..targets import Target
from .registration import registered
from .vectors import broadcast_four, dot_bytes, look_up, low_bits, repeat_four, shift_bytes_right, take_bytes


@cache
def place_codes(target: Target, shape: LookupShape) -> str:
    """Packed codes of one step to places: ``vectors`` times ``4 * lanes`` bytes."""
    vectors, room, width = shape.vectors, shape.code_bytes, 4 * shape.lanes

    def place(W, v, i):
        return places(shape, [W[byte, i] for byte in range(room)], v, i % 4)

    @T.prim_func(s_tir=True)
    def meaning(
        W: T.Buffer((room, width), "uint8", offset_factor=1, align=1),
        P: T.Buffer((vectors, width), "uint8", offset_factor=1, align=1, scope="local"),
    ) -> None:
        with T.sblock("root"):
            T.reads(W[0:room, 0:width])
            T.writes(P[0:vectors, 0:width])
            for v, i in T.grid(vectors, width):
                with T.sblock("place"):
                    vv, vi = T.axis.remap("SS", [v, i])
                    P[vv, vi] = place(W, vv, vi)

    @T.prim_func(s_tir=True)
    def instructions(
        W: T.Buffer((room, width), "uint8", offset_factor=1, align=1),
        P: T.Buffer((vectors, width), "uint8", offset_factor=1, align=1, scope="local"),
    ) -> None:
        with T.sblock("root"):
            T.reads(W[0:room, 0:width])
            T.writes(P[0:vectors, 0:width])
            _store_places(shape, W, P)

    return registered(_name("place_codes", target, shape), meaning, instructions)


@cache
def sum_entries(target: Target, shape: LookupShape) -> str:
    """``lanes`` outputs take the columns of one step: factors times the entries at places."""
    lanes, width, vectors = shape.lanes, 4 * shape.lanes, shape.vectors
    registers, words, byte = shape.registers, shape.words, "int8" if shape.negated else "uint8"

    def entry(Q, P, i, v, j):
        return selected([Q[register(shape, v, j), word] for word in range(words)], P[v, i * 4 + j])

    @T.prim_func(s_tir=True)
    def meaning(
        F: T.Buffer((vectors, 4), byte, offset_factor=1, align=1),
        Q: T.Buffer((registers, words), "int64", offset_factor=1, align=8),
        P: T.Buffer((vectors, width), "uint8", offset_factor=1, align=1, scope="local"),
        C: T.Buffer((lanes,), "int32", offset_factor=1, align=4, scope="local"),
    ) -> None:
        with T.sblock("root"):
            T.reads(C[0:lanes], F[0:vectors, 0:4], P[0:vectors, 0:width], Q[0:registers, 0:words])
            T.writes(C[0:lanes])
            for i, v, j in T.grid(lanes, vectors, 4):
                with T.sblock("sum"):
                    vi, vv, vj = T.axis.remap("SRR", [i, v, j])
                    C[vi] = C[vi] + T.cast(F[vv, vj], "int32") * entry(Q, P, vi, vv, vj)

    @T.prim_func(s_tir=True)
    def instructions(
        F: T.Buffer((vectors, 4), byte, offset_factor=1, align=1),
        Q: T.Buffer((registers, words), "int64", offset_factor=1, align=8),
        P: T.Buffer((vectors, width), "uint8", offset_factor=1, align=1, scope="local"),
        C: T.Buffer((lanes,), "int32", offset_factor=1, align=4, scope="local"),
    ) -> None:
        with T.sblock("root"):
            T.reads(C[0:lanes], F[0:vectors, 0:4], P[0:vectors, 0:width], Q[0:registers, 0:words])
            T.writes(C[0:lanes])
            C[T.ramp(0, 1, lanes)] = _sum(target, shape, C[T.ramp(0, 1, lanes)], F, P, Q)

    return registered(_name("sum_entries", target, shape), meaning, instructions)


def _store_places(shape: LookupShape, W, P) -> None:
    """Every vector of places. A mask takes off what shifting pairs of bytes brings in from a neighbour."""
    lanes, width, size = shape.lanes, 4 * shape.lanes, table_bytes(shape.planes)
    for vector in range(shape.vectors):
        place = repeat_four([(4 * vector + j) * size % shape.register for j in range(4)], lanes)
        for part in shape.parts(vector):
            code = W.vload([part.byte, 0], f"uint8x{width}")
            moved = shift_bytes_right(code, part.shift, lanes) if part.shift else code
            place = T.bitwise_or(low_bits(moved, part.mask, lanes), place)
        T.buffer_store(P, place, [vector, T.ramp(0, 1, width)])


def _sum(target: Target, shape: LookupShape, total, F, P, Q):
    """The sum with the columns of all vectors."""
    lanes, width = shape.lanes, 4 * shape.lanes
    for vector in range(shape.vectors):
        factors = broadcast_four(F, lanes, "int8" if shape.negated else "uint8", vector)
        entries = _entries(target, shape, Q, vector, P.vload([vector, 0], f"uint8x{width}"))
        total = dot_bytes(target, total, factors, T.reinterpret(f"int8x{width}", entries))
    return total


def _entries(target: Target, shape: LookupShape, tables, vector: int, place):
    """The entries of one vector: columns whose tables lie in different registers look up in each, and one is kept."""
    first = 4 * vector * table_bytes(shape.planes) // shape.register
    count = shape.registers_per_vector
    found = [look_up(target, tables, first + register, shape.words, place) for register in range(count)]
    for step in (1, 2):
        if len(found) > 1:
            # Column j has its table in register j * count // 4: pair by pair, the later registers win their columns.
            later = [j * count // 4 % (2 * step) >= step for j in range(4)]
            pairs = zip(found[::2], found[1::2], strict=True)
            found = [take_bytes(one, other, later, shape.lanes) for one, other in pairs]
    return found[0]


def _name(name: str, target: Target, shape: LookupShape) -> str:
    return f"shiftadd.{name}.{target.name}.{shape.planes}.{shape.register}"
