"""A window slides over the tokens of a head and sums products with its kernel, or distances to it."""

from __future__ import annotations

from tvm import tirx
from tvm.script import tirx as T

from ..layouts.token_window import TokenWindowShape


def token_window(shape: TokenWindowShape) -> tirx.PrimFunc:
    """``y[t] = sum_j w[j] * x[t + j]``, or ``-sum_j |x[t + j] - w[j]|``.

    Arguments: tokens float32 ``[H, T + J - 1, F]`` with ``F = shape.width``, kernels ``[H, J]``, and the result
    ``[H, T, F]``.
    """
    width, rows = shape.width, shape.rows

    def joined(total, x, w):
        return total - T.abs(x - w) if shape.distance else total + x * w

    @T.prim_func(s_tir=True)
    def token_window(x: T.handle, taps: T.handle, y: T.handle):
        heads, length, count, targets = T.int64(), T.int64(), T.int64(), T.int64()
        X = T.match_buffer(x, (heads, length, width), "float32", align=4)
        W = T.match_buffer(taps, (heads, count), "float32", align=4)
        Y = T.match_buffer(y, (heads, targets, width), "float32", align=4)
        P = T.sblock_alloc_buffer((heads, (targets + rows - 1) // rows, rows, width), "float32", scope="local")
        for h, t, r, f, j in T.grid(heads, (targets + rows - 1) // rows, rows, width, count):
            with T.sblock("sum"):
                vh, vt, vr, vf, vj = T.axis.remap("SSSSR", [h, t, r, f, j])
                with T.init():
                    P[vh, vt, vr, vf] = T.float32(0)
                P[vh, vt, vr, vf] = joined(
                    P[vh, vt, vr, vf], X[vh, T.min(vt * rows + vr, targets - 1) + vj, vf], W[vh, vj]
                )
        for h, t, r, f in T.grid(heads, (targets + rows - 1) // rows, rows, width):
            with T.sblock("store"):
                vh, vt, vr, vf = T.axis.remap("SSSS", [h, t, r, f])
                Y[vh, T.min(vt * rows + vr, targets - 1), vf] = P[vh, vt, vr, vf]

    return token_window
