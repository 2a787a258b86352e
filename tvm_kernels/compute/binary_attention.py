"""Linear attention by bits, a head at a time: values are added where a mask lets them through.

A code becomes a word that is combined with the bits of a value: all ones or zeros under AND for codes of 0 and 1, the
sign bit or zero under XOR for signs. The sums over sources stay near the core until all targets of the head have read
them, and a row of results is normalised in registers.
"""

from __future__ import annotations

import math

from tvm import tirx
from tvm.script import tirx as T

from ..layouts.binary_attention import BinaryAttentionShape

SMALLEST_NORM = 1e-6


def binary_attention(shape: BinaryAttentionShape) -> tirx.PrimFunc:
    """``y = normalise(own / 2 + 1/pi * sum_e c(q[e]) * sum_s c(k[s, e]) * v[s])``.

    Arguments, with ``H`` heads of all images: queries float32 ``[H, T, E]``, keys ``[H, S, E]``, values ``[H, S, F]``,
    own values ``[H, T, F]``, thresholds of queries and of keys ``[H]`` each, and the result ``[H, T, F]``; ``F`` is
    ``shape.values``.
    """
    width, lanes, vectors, rows, values = shape.width, shape.lanes, shape.vectors, shape.rows, shape.values

    def mask(x, threshold):
        above, below = (0xFFFFFFFF, 0) if shape.binary else (0, 0x80000000)
        return T.Select(x > threshold, T.uint32(above), T.uint32(below))

    def taken(mask, value):
        bits = T.reinterpret("uint32", value)
        combined = T.bitwise_and(bits, mask) if shape.binary else T.bitwise_xor(bits, mask)
        return T.reinterpret("float32", combined)

    @T.prim_func(s_tir=True)
    def binary_attention(
        query: T.handle,
        key: T.handle,
        value: T.handle,
        own: T.handle,
        query_thresholds: T.handle,
        key_thresholds: T.handle,
        y: T.handle,
    ):
        heads, targets, sources = T.int64(), T.int64(), T.int64()
        Q = T.match_buffer(query, (heads, targets, width), "float32", align=4)
        K = T.match_buffer(key, (heads, sources, width), "float32", align=4)
        V = T.match_buffer(value, (heads, sources, values), "float32", align=4)
        O = T.match_buffer(own, (heads, targets, values), "float32", align=4)  # noqa: E741
        TQ = T.match_buffer(query_thresholds, (heads,), "float32", align=4)
        TK = T.match_buffer(key_thresholds, (heads,), "float32", align=4)
        Y = T.match_buffer(y, (heads, targets, values), "float32", align=4)
        MK = T.sblock_alloc_buffer((heads, sources, width), "uint32")
        G = T.sblock_alloc_buffer((heads, width // rows, rows, values), "float32", scope="local")
        KV = T.sblock_alloc_buffer((heads, width // rows, rows, values), "float32")
        MQ = T.sblock_alloc_buffer((heads, (targets + rows - 1) // rows, rows, width), "uint32")
        P = T.sblock_alloc_buffer((heads, (targets + rows - 1) // rows, rows, values), "float32", scope="local")
        C = T.sblock_alloc_buffer((heads, (targets + rows - 1) // rows, rows, values), "float32", scope="local")
        L = T.sblock_alloc_buffer((heads, (targets + rows - 1) // rows, rows, lanes), "float32", scope="local")
        N = T.sblock_alloc_buffer((heads, (targets + rows - 1) // rows, rows), "float32", scope="local")
        for h, s, e in T.grid(heads, sources, width):
            with T.sblock("key_masks"):
                vh, vs, ve = T.axis.remap("SSS", [h, s, e])
                MK[vh, vs, ve] = mask(K[vh, vs, ve], TK[vh])
        for h, b, r, f, s in T.grid(heads, width // rows, rows, values, sources):
            with T.sblock("gather"):
                vh, vb, vr, vf, vs = T.axis.remap("SSSSR", [h, b, r, f, s])
                with T.init():
                    G[vh, vb, vr, vf] = T.float32(0)
                G[vh, vb, vr, vf] = G[vh, vb, vr, vf] + taken(MK[vh, vs, vb * rows + vr], V[vh, vs, vf])
        for h, b, r, f in T.grid(heads, width // rows, rows, values):
            with T.sblock("keep"):
                vh, vb, vr, vf = T.axis.remap("SSSS", [h, b, r, f])
                KV[vh, vb, vr, vf] = G[vh, vb, vr, vf]
        for h, t, r, e in T.grid(heads, (targets + rows - 1) // rows, rows, width):
            with T.sblock("query_masks"):
                vh, vt, vr, ve = T.axis.remap("SSSS", [h, t, r, e])
                MQ[vh, vt, vr, ve] = mask(Q[vh, T.min(vt * rows + vr, targets - 1), ve], TQ[vh])
        for h, t, r, f, e in T.grid(heads, (targets + rows - 1) // rows, rows, values, width):
            with T.sblock("sum"):
                vh, vt, vr, vf, ve = T.axis.remap("SSSSR", [h, t, r, f, e])
                with T.init():
                    P[vh, vt, vr, vf] = T.float32(0)
                P[vh, vt, vr, vf] = P[vh, vt, vr, vf] + taken(MQ[vh, vt, vr, ve], KV[vh, ve // rows, ve % rows, vf])
        for h, t, r, f in T.grid(heads, (targets + rows - 1) // rows, rows, values):
            with T.sblock("combine"):
                vh, vt, vr, vf = T.axis.remap("SSSS", [h, t, r, f])
                C[vh, vt, vr, vf] = O[vh, T.min(vt * rows + vr, targets - 1), vf] * T.float32(0.5) + P[
                    vh, vt, vr, vf
                ] * T.float32(1 / math.pi)
        for h, t, r, i, v in T.grid(heads, (targets + rows - 1) // rows, rows, lanes, vectors):
            with T.sblock("squares"):
                vh, vt, vr, vi, vv = T.axis.remap("SSSSR", [h, t, r, i, v])
                with T.init():
                    L[vh, vt, vr, vi] = T.float32(0)
                L[vh, vt, vr, vi] = L[vh, vt, vr, vi] + C[vh, vt, vr, vv * lanes + vi] * C[vh, vt, vr, vv * lanes + vi]
        for h, t, r, i in T.grid(heads, (targets + rows - 1) // rows, rows, lanes):
            with T.sblock("norm"):
                vh, vt, vr, vi = T.axis.remap("SSSR", [h, t, r, i])
                with T.init():
                    N[vh, vt, vr] = T.float32(0)
                N[vh, vt, vr] = N[vh, vt, vr] + L[vh, vt, vr, vi]
        for h, t, r, f in T.grid(heads, (targets + rows - 1) // rows, rows, values):
            with T.sblock("store"):
                vh, vt, vr, vf = T.axis.remap("SSSS", [h, t, r, f])
                Y[vh, T.min(vt * rows + vr, targets - 1), vf] = C[vh, vt, vr, vf] / T.max(
                    T.sqrt(N[vh, vt, vr]), T.float32(SMALLEST_NORM)
                )

    return binary_attention
