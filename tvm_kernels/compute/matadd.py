"""Products with a binary operand: which four values are added and which subtracted, looked up instead of computed.

Four signs have 16 patterns. Where many more rows of signs meet the same four values, the 16 sums are tabulated once
and each row looks its own up ("four Russians", Arlazarov et al. 1970). Nothing is multiplied, and nothing added that
the product does not add: an infinity stays one, and infinities of opposite signs give NaN.
"""

from __future__ import annotations

from tvm import tirx
from tvm.script import tirx as T

from ..layouts.matadd import RegisterShape, TableShape
from .expressions import nibble

_CODES = 8  # of four signs each in a word


def signed(value, minus):
    """The value, or its negative where the lowest bit of ``minus`` is set."""
    bits = T.bitwise_xor(T.reinterpret("uint32", value), T.shift_left(T.cast(minus, "uint32"), T.uint32(31)))
    return T.reinterpret("float32", bits)


def chosen(table, code):
    """The entry that the lowest bits of a code select, of a table of 16 or a folded one of 8.

    An index into a buffer that depends on data could be matched by no tensor intrinsic; comparisons can.
    """
    index, found = T.bitwise_and(code, T.uint32(len(table) - 1)), table[0]
    for i in range(1, len(table)):
        found = T.Select(index == T.uint32(i), table[i], found)
    return signed(found, T.shift_right(code, T.uint32(3))) if len(table) == 8 else found


def _bit(code, i: int):
    return T.bitwise_and(T.shift_right(code, i), 1)


def _sum_of_four(values, code):
    """Each value added where its bit of the code is set, else subtracted."""
    terms = [signed(value, 1 - _bit(code, i)) for i, value in enumerate(values)]
    return (terms[0] + terms[1]) + (terms[2] + terms[3])


def _word(octets, folded: bool):
    """32 signs, that of column ``j`` in bit ``j``: eight codes of four bits.

    A folded table holds no sum that subtracts its last column. The top bit of a code says instead whether to take the
    negative, which is that of the sum with all other signs flipped.
    """
    bits = [T.shift_left(T.cast(octet, "uint32"), T.uint32(8 * i)) for i, octet in enumerate(octets)]
    word = T.bitwise_or(T.bitwise_or(bits[0], bits[1]), T.bitwise_or(bits[2], bits[3]))
    if not folded:
        return word
    tops = T.bitwise_and(T.bitwise_not(word), T.uint32(0x88888888))
    flipped = T.bitwise_or(tops, tops - T.shift_right(tops, T.uint32(3)))  # all four bits where the top is set
    return T.bitwise_xor(T.bitwise_and(word, T.uint32(0x77777777)), flipped)


def matadd(shape: TableShape) -> tirx.PrimFunc:
    """``y[h, m, n] = sum_k B[h, m, k] * v[h, k, n]`` with ``B`` of +1 and -1.

    Arguments: signs uint8 ``[H, M, ceil(K/8)]``, values float32 ``[H, K, N]`` with ``N >= width``, and the result
    float32 ``[H, M, N]``; with ``shape.right`` values and result are ``[H, N, K]`` and ``[H, N, M]``. Behind column K
    signs may be anything.
    """
    width, rows, right = shape.width, shape.rows, shape.right

    def place(head, along, across):
        return [head, across, along] if right else [head, along, across]

    @T.prim_func(s_tir=True)
    def matadd(signs: T.handle, values: T.handle, y: T.handle):
        heads, m, k, n, octets = T.int64(), T.int64(), T.int64(), T.int64(), T.int64()
        B = T.match_buffer(signs, (heads, m, octets), "uint8", align=1)
        V = T.match_buffer(values, place(heads, k, n), "float32", align=4)
        Y = T.match_buffer(y, place(heads, m, n), "float32", align=4)
        R = T.sblock_alloc_buffer((heads, (n + width - 1) // width, octets, 8, width), "float32", scope="local")
        S = T.sblock_alloc_buffer((heads, (n + width - 1) // width, octets, 2, 16, width), "float32")
        P = T.sblock_alloc_buffer(
            (heads, (n + width - 1) // width, (m + rows - 1) // rows, rows, width), "float32", scope="local"
        )
        for h, s, o, i, j in T.grid(heads, (n + width - 1) // width, octets, 8, width):
            with T.sblock("read"):
                vh, vs, vo, vi, vj = T.axis.remap("SSSSS", [h, s, o, i, j])
                R[vh, vs, vo, vi, vj] = T.if_then_else(
                    vo * 8 + vi < k, V[place(vh, vo * 8 + vi, T.min(vs * width, n - width) + vj)], T.float32(0)
                )
        for h, s, o, f, e, j in T.grid(heads, (n + width - 1) // width, octets, 2, 16, width):
            with T.sblock("table"):
                vh, vs, vo, vf, ve, vj = T.axis.remap("SSSSSS", [h, s, o, f, e, j])
                S[vh, vs, vo, vf, ve, vj] = _sum_of_four([R[vh, vs, vo, vf * 4 + c, vj] for c in range(4)], ve)
        for h, s, t, i, j, o, f in T.grid(
            heads, (n + width - 1) // width, (m + rows - 1) // rows, rows, width, octets, 2
        ):
            with T.sblock("sum"):
                vh, vs, vt, vi, vj, vo, vf = T.axis.remap("SSSSSRR", [h, s, t, i, j, o, f])
                with T.init():
                    P[vh, vs, vt, vi, vj] = T.float32(0)
                P[vh, vs, vt, vi, vj] = (
                    P[vh, vs, vt, vi, vj]
                    + S[vh, vs, vo, vf, T.cast(nibble(B[vh, T.min(vt * rows + vi, m - 1), vo], vf), "int32"), vj]
                )
        for h, s, t, i, j in T.grid(heads, (n + width - 1) // width, (m + rows - 1) // rows, rows, width):
            with T.sblock("store"):
                vh, vs, vt, vi, vj = T.axis.remap("SSSSS", [h, s, t, i, j])
                Y[place(vh, T.min(vt * rows + vi, m - 1), T.min(vs * width, n - width) + vj)] = P[vh, vs, vt, vi, vj]

    return matadd


def matadd_right(shape: RegisterShape) -> tirx.PrimFunc:
    """``y[h, m, n] = sum_k x[h, m, k] * B[h, n, k]`` with ``B`` of +1 and -1; tables are one register each.

    Arguments: ``x`` float32 ``[H, M, words, 8, 4]``, signs uint8 ``[H, N, words, 4]`` with ``N >= lanes``, and the
    result float32 ``[H, M, N]``.
    """
    lanes, rows, entries, folded = shape.lanes, shape.rows, shape.entries, shape.folded

    @T.prim_func(s_tir=True)
    def matadd_right(x: T.handle, signs: T.handle, y: T.handle):
        heads, m, n, words = T.int64(), T.int64(), T.int64(), T.int64()
        X = T.match_buffer(x, (heads, m, words, _CODES, 4), "float32", align=4)
        B = T.match_buffer(signs, (heads, n, words, 4), "uint8", align=1)
        Y = T.match_buffer(y, (heads, m, n), "float32", align=4)
        W = T.sblock_alloc_buffer((heads, (n + lanes - 1) // lanes, words, lanes), "uint32")
        S = T.sblock_alloc_buffer((heads, (m + rows - 1) // rows, words, rows, _CODES, entries), "float32")
        E = T.sblock_alloc_buffer((heads, (n + lanes - 1) // lanes, words, _CODES, lanes), "uint32", scope="local")
        P = T.sblock_alloc_buffer(
            (heads, (m + rows - 1) // rows, (n + lanes - 1) // lanes, rows, lanes), "float32", scope="local"
        )
        for h, b, w, i in T.grid(heads, (n + lanes - 1) // lanes, words, lanes):
            with T.sblock("word"):
                vh, vb, vw, vi = T.axis.remap("SSSS", [h, b, w, i])
                W[vh, vb, vw, vi] = _word([B[vh, T.min(vb * lanes, n - lanes) + vi, vw, c] for c in range(4)], folded)
        for h, t, w, r, g, e in T.grid(heads, (m + rows - 1) // rows, words, rows, _CODES, entries):
            with T.sblock("table"):
                vh, vt, vw, vr, vg, ve = T.axis.remap("SSSSSS", [h, t, w, r, g, e])
                S[vh, vt, vw, vr, vg, ve] = _sum_of_four(
                    [X[vh, T.min(vt * rows + vr, m - 1), vw, vg, c] for c in range(4)],
                    T.bitwise_or(ve, 8) if folded else ve,
                )
        for h, b, w, g, i in T.grid(heads, (n + lanes - 1) // lanes, words, _CODES, lanes):
            with T.sblock("code"):
                vh, vb, vw, vg, vi = T.axis.remap("SSSSS", [h, b, w, g, i])
                E[vh, vb, vw, vg, vi] = T.shift_right(W[vh, vb, vw, vi], T.cast(vg * 4, "uint32"))
        for h, t, b, r, i, w, g in T.grid(
            heads, (m + rows - 1) // rows, (n + lanes - 1) // lanes, rows, lanes, words, _CODES
        ):
            with T.sblock("sum"):
                vh, vt, vb, vr, vi, vw, vg = T.axis.remap("SSSSSRR", [h, t, b, r, i, w, g])
                with T.init():
                    P[vh, vt, vb, vr, vi] = T.float32(0)
                P[vh, vt, vb, vr, vi] = P[vh, vt, vb, vr, vi] + chosen(
                    [S[vh, vt, vw, vr, vg, e] for e in range(entries)], E[vh, vb, vw, vg, vi]
                )
        for h, t, b, r, i in T.grid(heads, (m + rows - 1) // rows, (n + lanes - 1) // lanes, rows, lanes):
            with T.sblock("store"):
                vh, vt, vb, vr, vi = T.axis.remap("SSSSS", [h, t, b, r, i])
                Y[vh, T.min(vt * rows + vr, m - 1), T.min(vb * lanes, n - lanes) + vi] = P[vh, vt, vb, vr, vi]

    return matadd_right
