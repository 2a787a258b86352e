"""The adder layer on a grid: exact sums of distances between bytes."""

from __future__ import annotations

from tvm import tirx
from tvm.script import tirx as T

from ..layouts.adder import AdderInt8Shape


def byte_distance(a, b):
    """``|a - b|`` of unsigned bytes, again one."""
    return T.max(a, b) - T.min(a, b)


def adder_linear_int8(shape: AdderInt8Shape) -> tirx.PrimFunc:
    """``y = float(sum_k |x - w|) * row_scale``.

    Arguments, with ``MT`` tiles of rows: activations uint8 ``[MT, rows, chunks, width]``, their scales float32
    ``[MT, rows]``, templates uint8 ``[blocks, chunks, lanes * width]``, and the result float32
    ``[MT, rows, blocks, lanes]``.
    """
    blocks, chunks, lanes, width, rows = shape.blocks, shape.chunks, shape.lanes, shape.width, shape.rows
    total = shape.total

    @T.prim_func(s_tir=True)
    def adder_linear_int8(
        x: T.handle,
        row_scale: T.handle,
        W: T.Buffer((blocks, chunks, lanes * width), "uint8", align=1),
        y: T.handle,
    ):
        tiles = T.int32()
        X = T.match_buffer(x, (tiles, rows, chunks, width), "uint8", align=1)
        S = T.match_buffer(row_scale, (tiles, rows), "float32", align=4)
        Y = T.match_buffer(y, (tiles, rows, blocks, lanes), "float32", align=4)
        D = T.sblock_alloc_buffer((tiles, rows, blocks, lanes), total, scope="local")
        for mt, mi, nb, ni, k, j in T.grid(tiles, rows, blocks, lanes, chunks, width):
            with T.sblock("distance"):
                vmt, vmi, vnb, vni, vk, vj = T.axis.remap("SSSSRR", [mt, mi, nb, ni, k, j])
                with T.init():
                    D[vmt, vmi, vnb, vni] = T.cast(0, total)
                D[vmt, vmi, vnb, vni] = D[vmt, vmi, vnb, vni] + T.cast(
                    byte_distance(X[vmt, vmi, vk, vj], W[vnb, vk, vni * width + vj]), total
                )
        for mt, mi, nb, ni in T.grid(tiles, rows, blocks, lanes):
            with T.sblock("store"):
                vmt, vmi, vnb, vni = T.axis.remap("SSSS", [mt, mi, nb, ni])
                Y[vmt, vmi, vnb, vni] = T.cast(T.cast(D[vmt, vmi, vnb, vni], "int32"), "float32") * S[vmt, vmi]

    return adder_linear_int8
