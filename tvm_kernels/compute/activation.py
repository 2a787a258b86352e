"""Rows of floats as 8-bit codes: the steps of ``operators.activation.quantize_rows_int8``, to the bit."""

from __future__ import annotations

from tvm import tirx
from tvm.script import tirx as T

from ..layouts.activation import RowsShape
from .expressions import INFINITY_BITS, magnitude_bits, not_a_number, round_half_even


def _row_scale(top):
    """``max|x| / 127``; 1 where that is zero or subnormal, NaN for a row that holds an infinity or a NaN."""
    scale = T.reinterpret("float32", top) / T.float32(127)
    usable = T.Select(scale < T.float32(2.0**-126), T.float32(1), scale)
    return T.Select(top < INFINITY_BITS, usable, not_a_number())


def _code(x, scale, top):
    rounded = round_half_even(x / scale)
    clamped = T.max(T.min(rounded, T.float32(127)), T.float32(-127))
    sound = T.Select(top < INFINITY_BITS, clamped, T.float32(0))
    return T.cast(T.cast(sound, "int32"), "int8")  # machines convert floats to words, and words to bytes


def quantize_rows(shape: RowsShape) -> tirx.PrimFunc:
    """``x`` float32 ``[M, G, J, L]`` to codes of its shape, scales float32 ``[M]``, sums of codes int32 ``[M, G]``."""
    groups, chunks, lanes = shape.groups, shape.chunks, shape.lanes

    @T.prim_func(s_tir=True)
    def quantize_rows(x: T.handle, codes: T.handle, scale: T.handle, sums: T.handle):
        m = T.int32()
        X = T.match_buffer(x, (m, groups, chunks, lanes), "float32", align=4)
        Q = T.match_buffer(codes, (m, groups, chunks, lanes), "int8", align=1)
        S = T.match_buffer(scale, (m,), "float32", align=4)
        R = T.match_buffer(sums, (m, groups), "int32", align=4)
        lane_top = T.sblock_alloc_buffer((m, lanes), "int32", scope="local")
        top = T.sblock_alloc_buffer((m,), "int32", scope="local")
        lane_sum = T.sblock_alloc_buffer((m, groups, lanes), "int32", scope="local")
        for i in T.serial(m):
            for lane, g, j in T.grid(lanes, groups, chunks):
                with T.sblock("lane_top"):
                    vi, vl, vg, vj = T.axis.remap("SSRR", [i, lane, g, j])
                    with T.init():
                        lane_top[vi, vl] = 0
                    lane_top[vi, vl] = T.max(lane_top[vi, vl], magnitude_bits(X[vi, vg, vj, vl]))
            for lane in T.serial(lanes):
                with T.sblock("top"):
                    vi, vl = T.axis.remap("SR", [i, lane])
                    with T.init():
                        top[vi] = 0
                    top[vi] = T.max(top[vi], lane_top[vi, vl])
            with T.sblock("scale"):
                vi = T.axis.spatial(m, i)
                S[vi] = _row_scale(top[vi])
            for g, j, lane in T.grid(groups, chunks, lanes):
                with T.sblock("codes"):
                    vi, vg, vj, vl = T.axis.remap("SSSS", [i, g, j, lane])
                    Q[vi, vg, vj, vl] = _code(X[vi, vg, vj, vl], S[vi], top[vi])
            for g, lane, j in T.grid(groups, lanes, chunks):
                with T.sblock("lane_sum"):
                    vi, vg, vl, vj = T.axis.remap("SSSR", [i, g, lane, j])
                    with T.init():
                        lane_sum[vi, vg, vl] = 0
                    lane_sum[vi, vg, vl] = lane_sum[vi, vg, vl] + T.cast(Q[vi, vg, vj, vl], "int32")
            for g, lane in T.grid(groups, lanes):
                with T.sblock("sum"):
                    vi, vg, vl = T.axis.remap("SSR", [i, g, lane])
                    with T.init():
                        R[vi, vg] = 0
                    R[vi, vg] = R[vi, vg] + lane_sum[vi, vg, vl]

    return quantize_rows
