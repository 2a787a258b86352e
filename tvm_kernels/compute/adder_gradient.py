"""The surrogate gradient of the adder layer for its input: clipped differences, weighted by the incoming gradient."""

from __future__ import annotations

from tvm import tirx
from tvm.script import tirx as T

from ..layouts.adder import AdderGradientShape


def _clamp(value):
    """To -1..1; NaN stays, which a minimum or a maximum may drop."""
    at_least = T.Select(value < T.float32(-1), T.float32(-1), value)
    return T.Select(at_least > T.float32(1), T.float32(1), at_least)


def adder_input_gradient(shape: AdderGradientShape) -> tirx.PrimFunc:
    """``d = sum_n gradient * clamp(w - x, -1, 1)``, summed group by group, which keeps errors small.

    Arguments, with ``MT`` tiles of rows: ``gradient`` float32 ``[MT, rows, G, size]``, ``x`` float32
    ``[MT, rows, blocks, lanes]``, templates float32 ``[blocks, G, size, lanes]``, and the result like ``x``.
    """
    blocks, groups, size, lanes, rows = shape.blocks, shape.groups, shape.size, shape.lanes, shape.rows

    @T.prim_func(s_tir=True)
    def adder_input_gradient(
        gradient: T.handle,
        x: T.handle,
        W: T.Buffer((blocks, groups, size, lanes), "float32", align=4),
        d: T.handle,
    ):
        tiles = T.int32()
        G = T.match_buffer(gradient, (tiles, rows, groups, size), "float32", align=4)
        X = T.match_buffer(x, (tiles, rows, blocks, lanes), "float32", align=4)
        Y = T.match_buffer(d, (tiles, rows, blocks, lanes), "float32", align=4)
        C = T.sblock_alloc_buffer((tiles, rows, blocks, groups, lanes), "float32", scope="local")
        D = T.sblock_alloc_buffer((tiles, rows, blocks, lanes), "float32", scope="local")
        for mt, mi, kb, g, ki, n in T.grid(tiles, rows, blocks, groups, lanes, size):
            with T.sblock("part"):
                vmt, vmi, vkb, vg, vki, vn = T.axis.remap("SSSSSR", [mt, mi, kb, g, ki, n])
                with T.init():
                    C[vmt, vmi, vkb, vg, vki] = T.float32(0)
                C[vmt, vmi, vkb, vg, vki] = C[vmt, vmi, vkb, vg, vki] + G[vmt, vmi, vg, vn] * _clamp(
                    W[vkb, vg, vn, vki] - X[vmt, vmi, vkb, vki]
                )
        for mt, mi, kb, ki, g in T.grid(tiles, rows, blocks, lanes, groups):
            with T.sblock("total"):
                vmt, vmi, vkb, vki, vg = T.axis.remap("SSSSR", [mt, mi, kb, ki, g])
                with T.init():
                    D[vmt, vmi, vkb, vki] = T.float32(0)
                D[vmt, vmi, vkb, vki] = D[vmt, vmi, vkb, vki] + C[vmt, vmi, vkb, vg, vki]
        for mt, mi, kb, ki in T.grid(tiles, rows, blocks, lanes):
            with T.sblock("store"):
                vmt, vmi, vkb, vki = T.axis.remap("SSSS", [mt, mi, kb, ki])
                Y[vmt, vmi, vkb, vki] = D[vmt, vmi, vkb, vki]

    return adder_input_gradient
