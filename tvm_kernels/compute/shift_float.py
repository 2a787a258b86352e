"""The shift layer in floats: every product is one addition to the bits of the activation."""

from __future__ import annotations

from tvm import tirx
from tvm.script import tirx as T

from ..layouts.shift_float import FloatShiftShape, NormalRows
from .expressions import kept

_LANES = 8
_MANTISSA = 23
_HALF = 126  # the exponent field of 0.5
_FAULT = 255  # the exponent field of infinities and NaN


def _field(x):
    return T.bitwise_and(T.shift_right(T.reinterpret("int32", x), _MANTISSA), 255)


def normal_bits(x, top):
    """The bits of ``x`` with an exponent that ends at that of 0.5 for the largest of its row; 0 for what vanishes."""
    lowered = _field(x) + (_HALF - top)
    bits = T.reinterpret("int32", x) + T.shift_left(_HALF - top, _MANTISSA)
    return T.Select(tirx.all(_field(x) > 0, lowered > 0), bits, 0)


def row_factor(top):
    """What a normalised row is to be multiplied by: a power of two, 0 for a row of zeros, NaN for one with a fault."""
    factor = T.Select(top == _FAULT, 0x7FC00000, T.shift_left(top, _MANTISSA))
    return T.reinterpret("float32", factor)


def normalize_rows(shape: NormalRows) -> tirx.PrimFunc:
    """``x`` float32 ``[M, J, 8]`` to pairs of bits and mask, int32 ``[M, J, 8, 2]``, and row factors float32 ``[M]``.

    The largest of a row gets the exponent of 0.5, so that adding to exponents cannot overflow; what is then too small
    for a float, by 2**-125 of the largest, becomes zero. The mask is 0 for a zero and all ones for everything else.
    """
    steps = shape.chunks * shape.width // _LANES

    @T.prim_func(s_tir=True)
    def normalize_rows(x: T.handle, normal: T.handle, factor: T.handle):
        m = T.int32()
        X = T.match_buffer(x, (m, steps, _LANES), "float32", align=4)
        Z = T.match_buffer(normal, (m, steps, _LANES, 2), "int32", align=4)
        F = T.match_buffer(factor, (m,), "float32", align=4)
        lane_top = T.sblock_alloc_buffer((m, _LANES), "int32", scope="local")
        top = T.sblock_alloc_buffer((m,), "int32", scope="local")
        for i in T.serial(m):
            for lane, j in T.grid(_LANES, steps):
                with T.sblock("lane_top"):
                    vi, vl, vj = T.axis.remap("SSR", [i, lane, j])
                    with T.init():
                        lane_top[vi, vl] = 0
                    lane_top[vi, vl] = T.max(lane_top[vi, vl], _field(X[vi, vj, vl]))
            for lane in T.serial(_LANES):
                with T.sblock("top"):
                    vi, vl = T.axis.remap("SR", [i, lane])
                    with T.init():
                        top[vi] = 0
                    top[vi] = T.max(top[vi], lane_top[vi, vl])
            with T.sblock("factor"):
                vi = T.axis.spatial(m, i)
                F[vi] = row_factor(top[vi])
            for j, lane in T.grid(steps, _LANES):
                with T.sblock("bits"):
                    vi, vj, vl = T.axis.remap("SSS", [i, j, lane])
                    Z[vi, vj, vl, 0] = normal_bits(X[vi, vj, vl], top[vi])
                    Z[vi, vj, vl, 1] = T.Select(normal_bits(X[vi, vj, vl], top[vi]) == 0, 0, -1)

    return normalize_rows


def float_shift_linear(shape: FloatShiftShape) -> tirx.PrimFunc:
    """``y = (sum_c scale_g * sum_k bits_as_float(x_bits + power_bits)) * row_factor + bias``.

    Arguments, with ``MT`` tiles of rows: normalised rows int32 ``[MT, rows, chunks, words, columns, 2]``, their
    factors float32 ``[MT, rows]``, fields int32 ``[blocks, chunks, words, lanes]``, scales float32 ``[blocks, groups,
    lanes]``, bias float32 ``[blocks, lanes]`` and the result float32 ``[MT, rows, blocks, lanes]``.

    Rows end at 0.5, so a field adds one more than its power where it can be empty, and scales are doubled where not.
    """
    blocks, chunks, words, lanes, rows = shape.blocks, shape.chunks, shape.words, shape.lanes, shape.rows
    per_group, groups = shape.per_group, -(-shape.chunks // shape.per_group)
    bits, terms, columns = shape.fields.bits, shape.fields.terms, shape.fields.columns
    largest = (1 << (bits - 1)) - 1

    def power(word, j, t):
        return T.bitwise_and(T.shift_right(word, (j * terms + t) * bits), largest)

    def sign(word, j, t):
        return T.bitwise_and(T.shift_left(word, 32 - bits - (j * terms + t) * bits), T.int32(-(1 << 31)))

    def present(word, j, t):
        return T.Select(power(word, j, t) == 0, 0, -1) if shape.fields.empty else T.int32(-1)

    def product(x, mask, added, wanted):
        return T.reinterpret("float32", T.bitwise_and(T.bitwise_and(x + added, mask), wanted))

    def finish(y, B, nb, n):
        return kept(y) + B[nb, n] if shape.bias else y

    @T.prim_func(s_tir=True)
    def float_shift_linear(
        x: T.handle,
        factor: T.handle,
        W: T.Buffer((blocks, chunks, words, lanes), "int32", align=4),
        E: T.Buffer((blocks, groups, lanes), "float32", align=4),
        B: T.Buffer((blocks, lanes), "float32", align=4),
        y: T.handle,
    ):
        tiles = T.int32()
        X = T.match_buffer(x, (tiles, rows, chunks, words, columns, 2), "int32", align=4)
        S = T.match_buffer(factor, (tiles, rows), "float32", align=4)
        Y = T.match_buffer(y, (tiles, rows, blocks, lanes), "float32", align=4)
        P = T.sblock_alloc_buffer((blocks, chunks, words, columns, terms, lanes), "int32", scope="local")
        Z = T.sblock_alloc_buffer((blocks, chunks, words, columns, terms, lanes), "int32", scope="local")
        C = T.sblock_alloc_buffer((tiles, rows, blocks, chunks, lanes), "float32", scope="local")
        A = T.sblock_alloc_buffer((tiles, rows, blocks, lanes), "float32", scope="local")
        for nb, c, w, j, t, n in T.grid(blocks, chunks, words, columns, terms, lanes):
            with T.sblock("power"):
                vnb, vc, vw, vj, vt, vn = T.axis.remap("SSSSSS", [nb, c, w, j, t, n])
                P[vnb, vc, vw, vj, vt, vn] = T.shift_left(power(W[vnb, vc, vw, vn], vj, vt), _MANTISSA) + sign(
                    W[vnb, vc, vw, vn], vj, vt
                )
        for nb, c, w, j, t, n in T.grid(blocks, chunks, words, columns, terms, lanes):
            with T.sblock("present"):
                vnb, vc, vw, vj, vt, vn = T.axis.remap("SSSSSS", [nb, c, w, j, t, n])
                Z[vnb, vc, vw, vj, vt, vn] = present(W[vnb, vc, vw, vn], vj, vt)
        for mt, mi, nb, c, n, w, j, t in T.grid(tiles, rows, blocks, chunks, lanes, words, columns, terms):
            with T.sblock("add"):
                vmt, vmi, vnb, vc, vn, vw, vj, vt = T.axis.remap("SSSSSRRR", [mt, mi, nb, c, n, w, j, t])
                with T.init():
                    C[vmt, vmi, vnb, vc, vn] = T.float32(0)
                C[vmt, vmi, vnb, vc, vn] = C[vmt, vmi, vnb, vc, vn] + product(
                    X[vmt, vmi, vc, vw, vj, 0],
                    X[vmt, vmi, vc, vw, vj, 1],
                    P[vnb, vc, vw, vj, vt, vn],
                    Z[vnb, vc, vw, vj, vt, vn],
                )
        for mt, mi, nb, n, c in T.grid(tiles, rows, blocks, lanes, chunks):
            with T.sblock("scale"):
                vmt, vmi, vnb, vn, vc = T.axis.remap("SSSSR", [mt, mi, nb, n, c])
                with T.init():
                    A[vmt, vmi, vnb, vn] = T.float32(0)
                A[vmt, vmi, vnb, vn] = A[vmt, vmi, vnb, vn] + C[vmt, vmi, vnb, vc, vn] * E[vnb, vc // per_group, vn]
        for mt, mi, nb, n in T.grid(tiles, rows, blocks, lanes):
            with T.sblock("store"):
                vmt, vmi, vnb, vn = T.axis.remap("SSSS", [mt, mi, nb, n])
                Y[vmt, vmi, vnb, vn] = finish(A[vmt, vmi, vnb, vn] * S[vmt, vmi], B, vnb, vn)

    return float_shift_linear
