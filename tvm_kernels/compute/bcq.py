"""The binary-coded layer with 8-bit tables: codes select entries, entries are shifted and summed as exact integers."""

from __future__ import annotations

from tvm import tirx
from tvm.script import tirx as T

from ..layouts.bcq import LookupShape, table_bytes
from .expressions import kept, table_entry


def places(shape: LookupShape, codes, v, j):
    """Where in a register the entry lies that a weight of vector ``v`` and column ``j`` selects.

    Args:
        shape: the static shape.
        codes: the bytes of the step that hold this place among others.
        v: the vector.
        j: the column.
    """
    found = None
    for vector in reversed(range(shape.vectors)):
        bits = [
            T.bitwise_and(T.shift_right(codes[part.byte], T.uint8(part.shift)), T.uint8(part.mask))
            for part in shape.parts(vector)
        ]
        place = bits[0] if len(bits) == 1 else T.bitwise_or(*bits)
        found = place if found is None else T.Select(v == vector, place, found)
    return T.bitwise_or(found, T.cast((v * 4 + j) * table_bytes(shape.planes) % shape.register, "uint8"))


def register(shape: LookupShape, v, j):
    """The register that holds the table of a column."""
    return (v * 4 + j) * table_bytes(shape.planes) // shape.register


def selected(words, place):
    """The entry at a place of a register that is held in 64-bit words."""
    return T.cast(T.cast(table_entry(words, place), "int8"), "int32")


def bcq_lookup(shape: LookupShape) -> tirx.PrimFunc:
    """``y = float(sum_k q_k[code] * 2**s_k) * unit + bias``.

    Arguments, with ``MT`` tiles of rows: tables int64 ``[MT, rows, steps, registers, words]``, factors ``2**s_k``
    uint8 or ``-2**s_k`` int8 ``[MT, rows, steps, vectors, 4]``, units float32 ``[MT, rows]``, packed codes uint8
    ``[blocks, steps, bytes, 4*lanes]``, bias float32 ``[blocks, lanes]`` (only with ``shape.bias``), and the result
    float32 ``[MT, rows, blocks, lanes]``.
    """
    blocks, steps, lanes, rows, vectors = shape.blocks, shape.steps, shape.lanes, shape.rows, shape.vectors
    registers, words, room, width = shape.registers, shape.words, shape.code_bytes, 4 * shape.lanes
    byte = "int8" if shape.negated else "uint8"

    def place(W, nb, k, v, i):
        return places(shape, [W[nb, k, byte, i] for byte in range(room)], v, i % 4)

    def entry(Q, P, mt, mi, nb, ni, k, v, j):
        table = [Q[mt, mi, k, register(shape, v, j), word] for word in range(words)]
        return selected(table, P[nb, k, v, ni * 4 + j])

    def total(c):
        return T.cast(0 - c if shape.negated else c, "float32")

    def finish(y, B, nb, ni):
        return kept(y) + B[nb, ni] if shape.bias else y

    @T.prim_func(s_tir=True)
    def bcq_lookup(
        tables: T.handle,
        factors: T.handle,
        units: T.handle,
        W: T.Buffer((blocks, steps, room, width), "uint8", align=1),
        B: T.Buffer((blocks, lanes), "float32", align=4),
        y: T.handle,
    ):
        tiles = T.int32()
        Q = T.match_buffer(tables, (tiles, rows, steps, registers, words), "int64", align=8)
        F = T.match_buffer(factors, (tiles, rows, steps, vectors, 4), byte, align=1)
        U = T.match_buffer(units, (tiles, rows), "float32", align=4)
        Y = T.match_buffer(y, (tiles, rows, blocks, lanes), "float32", align=4)
        P = T.sblock_alloc_buffer((blocks, steps, vectors, width), "uint8", scope="local")
        C = T.sblock_alloc_buffer((tiles, rows, blocks, lanes), "int32", scope="local")
        for nb, k, v, i in T.grid(blocks, steps, vectors, width):
            with T.sblock("place"):
                vnb, vk, vv, vi = T.axis.remap("SSSS", [nb, k, v, i])
                P[vnb, vk, vv, vi] = place(W, vnb, vk, vv, vi)
        for mt, mi, nb, ni, k, v, j in T.grid(tiles, rows, blocks, lanes, steps, vectors, 4):
            with T.sblock("sum"):
                vmt, vmi, vnb, vni, vk, vv, vj = T.axis.remap("SSSSRRR", [mt, mi, nb, ni, k, v, j])
                with T.init():
                    C[vmt, vmi, vnb, vni] = 0
                C[vmt, vmi, vnb, vni] = C[vmt, vmi, vnb, vni] + T.cast(F[vmt, vmi, vk, vv, vj], "int32") * entry(
                    Q, P, vmt, vmi, vnb, vni, vk, vv, vj
                )
        for mt, mi, nb, ni in T.grid(tiles, rows, blocks, lanes):
            with T.sblock("store"):
                vmt, vmi, vnb, vni = T.axis.remap("SSSS", [mt, mi, nb, ni])
                Y[vmt, vmi, vnb, vni] = finish(total(C[vmt, vmi, vnb, vni]) * U[vmt, vmi], B, vnb, vni)

    return bcq_lookup
