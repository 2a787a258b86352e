"""L1 distances between the queries and the keys of a head; lanes are keys, which are transposed once per head."""

from __future__ import annotations

from tvm import tirx
from tvm.script import tirx as T

from ..layouts.head_distances import HeadDistancesShape


def head_distances(shape: HeadDistancesShape) -> tirx.PrimFunc:
    """``y[h, t, s] = -sum_e |q[h, t, e] - k[h, s, e]|``.

    Arguments: queries float32 ``[H, T, E]``, keys ``[H, S, E]``, and the result ``[H, T, S]`` with ``S`` of at least
    ``shape.width``. The last tiles overlap those before them.
    """
    width, rows = shape.width, shape.rows

    @T.prim_func(s_tir=True)
    def head_distances(query: T.handle, key: T.handle, y: T.handle):
        heads, targets, sources, depth = T.int64(), T.int64(), T.int64(), T.int64()
        Q = T.match_buffer(query, (heads, targets, depth), "float32", align=4)
        K = T.match_buffer(key, (heads, sources, depth), "float32", align=4)
        Y = T.match_buffer(y, (heads, targets, sources), "float32", align=4)
        KT = T.sblock_alloc_buffer((heads, (sources + width - 1) // width, depth, width), "float32")
        P = T.sblock_alloc_buffer(
            (heads, (sources + width - 1) // width, (targets + rows - 1) // rows, rows, width),
            "float32",
            scope="local",
        )
        for h, b, e, i in T.grid(heads, (sources + width - 1) // width, depth, width):
            with T.sblock("transpose"):
                vh, vb, ve, vi = T.axis.remap("SSSS", [h, b, e, i])
                KT[vh, vb, ve, vi] = K[vh, T.min(vb * width, sources - width) + vi, ve]
        for h, b, t, r, i, e in T.grid(
            heads, (sources + width - 1) // width, (targets + rows - 1) // rows, rows, width, depth
        ):
            with T.sblock("sum"):
                vh, vb, vt, vr, vi, ve = T.axis.remap("SSSSSR", [h, b, t, r, i, e])
                with T.init():
                    P[vh, vb, vt, vr, vi] = T.float32(0)
                P[vh, vb, vt, vr, vi] = P[vh, vb, vt, vr, vi] - T.abs(
                    KT[vh, vb, ve, vi] - Q[vh, T.min(vt * rows + vr, targets - 1), ve]
                )
        for h, b, t, r, i in T.grid(heads, (sources + width - 1) // width, (targets + rows - 1) // rows, rows, width):
            with T.sblock("store"):
                vh, vb, vt, vr, vi = T.axis.remap("SSSSS", [h, b, t, r, i])
                Y[vh, T.min(vt * rows + vr, targets - 1), T.min(vb * width, sources - width) + vi] = P[
                    vh, vb, vt, vr, vi
                ]

    return head_distances
