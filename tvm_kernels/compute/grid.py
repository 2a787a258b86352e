"""Rows of floats as codes on a grid that is given: the first step of ``operators.adder_linear_int8``, to the bit."""

from __future__ import annotations

from tvm import tirx
from tvm.script import tirx as T

from ..layouts.activation import RowsShape
from .expressions import INFINITY_BITS, magnitude_bits, not_a_number, round_half_even


def _code(x, up):
    """``clamp(round(x * up), -127, 127) + 128``; any code for NaN, which the row's scale carries on."""
    clamped = T.max(T.min(round_half_even(x * up), T.float32(127)), T.float32(-127))
    sound = T.Select(magnitude_bits(x) > INFINITY_BITS, T.float32(0), clamped)
    return T.cast(T.cast(sound, "int32") + 128, "uint8")  # machines convert floats to words, and words to bytes


def quantize_grid(shape: RowsShape) -> tirx.PrimFunc:
    """``x`` float32 ``[M, 1, J, L]`` to codes uint8 of its shape and scales of the result float32 ``[M]``.

    ``grid`` float32 ``[2]`` holds what ``x`` is multiplied by, and what distances are. The latter becomes each row's
    scale, or NaN for a row that holds a NaN.
    """
    chunks, lanes = shape.chunks, shape.lanes

    @T.prim_func(s_tir=True)
    def quantize_grid(x: T.handle, grid: T.Buffer((2,), "float32", align=4), codes: T.handle, scale: T.handle):
        m = T.int32()
        X = T.match_buffer(x, (m, 1, chunks, lanes), "float32", align=4)
        Q = T.match_buffer(codes, (m, 1, chunks, lanes), "uint8", align=1)
        S = T.match_buffer(scale, (m,), "float32", align=4)
        lane_top = T.sblock_alloc_buffer((m, lanes), "int32", scope="local")
        top = T.sblock_alloc_buffer((m,), "int32", scope="local")
        for i in T.serial(m):
            for j, lane in T.grid(chunks, lanes):
                with T.sblock("codes"):
                    vi, vj, vl = T.axis.remap("SSS", [i, j, lane])
                    Q[vi, 0, vj, vl] = _code(X[vi, 0, vj, vl], grid[0])
            for lane, j in T.grid(lanes, chunks):
                with T.sblock("lane_top"):
                    vi, vl, vj = T.axis.remap("SSR", [i, lane, j])
                    with T.init():
                        lane_top[vi, vl] = 0
                    lane_top[vi, vl] = T.max(lane_top[vi, vl], magnitude_bits(X[vi, 0, vj, vl]))
            for lane in T.serial(lanes):
                with T.sblock("top"):
                    vi, vl = T.axis.remap("SR", [i, lane])
                    with T.init():
                        top[vi] = 0
                    top[vi] = T.max(top[vi], lane_top[vi, vl])
            with T.sblock("scale"):
                vi = T.axis.spatial(m, i)
                S[vi] = T.Select(top[vi] > INFINITY_BITS, not_a_number(), grid[1])

    return quantize_grid
