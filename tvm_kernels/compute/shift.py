"""The shift layer with 8-bit activations: codes select levels, levels meet activations in exact integers."""

from __future__ import annotations

from tvm import tirx
from tvm.script import tirx as T

from ..layouts.shift import ShiftShape
from .expressions import kept, nibble, table_entry


def shift_linear(shape: ShiftShape) -> tirx.PrimFunc:
    """``y = (sum_g float(sum_k code*level - offset*sum_k code) * scale_g) * row_scale + bias``.

    Arguments, with ``MT`` tiles of rows: activations int8 ``[MT, rows, G, steps, 2, 4]``, their scales float32
    ``[MT, rows]`` and sums int32 ``[MT, rows, G]``, packed codes uint8 ``[blocks, G, steps, bytes]``, tables int64
    ``[pieces, words]``, offset int32 ``[1]``, scales float32 ``[blocks, G, lanes]``, bias float32 ``[blocks, lanes]``
    (only with ``shape.bias``), and the result float32 ``[MT, rows, blocks, lanes]``.
    """
    blocks, groups, steps, lanes = shape.blocks, shape.groups, shape.steps, shape.lanes
    rows, pieces, words = shape.rows, shape.pieces, shape.words
    width, halved = 4 * lanes, shape.code_bits == 4
    room, byte = shape.bytes_per_step, "uint8" if shape.raised else "int8"

    def code(W, nb, g, k, h, i):
        return nibble(W[nb, g, k, i], h) if halved else W[nb, g, k, h * width + i]

    def level(TB, p, c):
        return T.cast(table_entry([TB[p, w] for w in range(words)], c), byte)

    def total(C, R, offset, mt, mi, nb, g, ni):
        if pieces == 1:
            return C[mt, mi, nb, g, 0, ni] - offset[0] * R[mt, mi, g]
        parts = [T.shift_left(T.cast(C[mt, mi, nb, g, p, ni], "int64"), T.int64(7 * p)) for p in range(pieces)]
        return sum(parts[1:], parts[0]) - T.cast(offset[0], "int64") * T.cast(R[mt, mi, g], "int64")

    def finish(y, B, nb, ni):
        return kept(y) + B[nb, ni] if shape.bias else y

    @T.prim_func(s_tir=True)
    def shift_linear(
        x: T.handle,
        row_scale: T.handle,
        sums: T.handle,
        W: T.Buffer((blocks, groups, steps, room), "uint8", align=1),
        TB: T.Buffer((pieces, words), "int64", align=8),
        offset: T.Buffer((1,), "int32", align=4),
        E: T.Buffer((blocks, groups, lanes), "float32", align=4),
        B: T.Buffer((blocks, lanes), "float32", align=4),
        y: T.handle,
    ):
        tiles = T.int32()
        X = T.match_buffer(x, (tiles, rows, groups, steps, 2, 4), "int8", align=1)
        S = T.match_buffer(row_scale, (tiles, rows), "float32", align=4)
        R = T.match_buffer(sums, (tiles, rows, groups), "int32", align=4)
        Y = T.match_buffer(y, (tiles, rows, blocks, lanes), "float32", align=4)
        P = T.sblock_alloc_buffer((pieces, blocks, groups, steps, 2, width), byte, scope="local")
        C = T.sblock_alloc_buffer((tiles, rows, blocks, groups, pieces, lanes), "int32", scope="local")
        A = T.sblock_alloc_buffer((tiles, rows, blocks, lanes), "float32", scope="local")
        for p, nb, g, k, h, i in T.grid(pieces, blocks, groups, steps, 2, width):
            with T.sblock("decode"):
                vp, vnb, vg, vk, vh, vi = T.axis.remap("SSSSSS", [p, nb, g, k, h, i])
                P[vp, vnb, vg, vk, vh, vi] = level(TB, vp, code(W, vnb, vg, vk, vh, vi))
        for mt, mi, nb, g, p, ni, k, h, j in T.grid(tiles, rows, blocks, groups, pieces, lanes, steps, 2, 4):
            with T.sblock("dot"):
                vmt, vmi, vnb, vg, vp, vni, vk, vh, vj = T.axis.remap("SSSSSSRRR", [mt, mi, nb, g, p, ni, k, h, j])
                with T.init():
                    C[vmt, vmi, vnb, vg, vp, vni] = 0
                C[vmt, vmi, vnb, vg, vp, vni] = C[vmt, vmi, vnb, vg, vp, vni] + T.cast(
                    P[vp, vnb, vg, vk, vh, vni * 4 + vj], "int32"
                ) * T.cast(X[vmt, vmi, vg, vk, vh, vj], "int32")
        for mt, mi, nb, ni, g in T.grid(tiles, rows, blocks, lanes, groups):
            with T.sblock("scale"):
                vmt, vmi, vnb, vni, vg = T.axis.remap("SSSSR", [mt, mi, nb, ni, g])
                with T.init():
                    A[vmt, vmi, vnb, vni] = T.float32(0)
                A[vmt, vmi, vnb, vni] = (
                    A[vmt, vmi, vnb, vni]
                    + T.cast(total(C, R, offset, vmt, vmi, vnb, vg, vni), "float32") * E[vnb, vg, vni]
                )
        for mt, mi, nb, ni in T.grid(tiles, rows, blocks, lanes):
            with T.sblock("store"):
                vmt, vmi, vnb, vni = T.axis.remap("SSSS", [mt, mi, nb, ni])
                Y[vmt, vmi, vnb, vni] = finish(A[vmt, vmi, vnb, vni] * S[vmt, vmi], B, vnb, vni)

    return shift_linear
