"""The binary-coded layer in floats: signs select sums of four inputs, and the sum of a run is scaled once."""

from __future__ import annotations

from tvm import tirx
from tvm.script import tirx as T

from ..layouts.bcq_float import QUADS, SignTablesShape, SumShape
from .expressions import kept

_SIGN = -(1 << 31)


def chosen(table, word, quad):
    """The signed sum that four bits of a word select in a table of 8 or 16."""
    code = T.bitwise_and(T.shift_right(word, 4 * quad), len(table) - 1)
    found = table[-1]
    for i in reversed(range(len(table) - 1)):
        found = T.Select(code == i, table[i], found)
    return found if len(table) == 16 else _flipped(found, word, quad)


def _flipped(value, word, quad):
    """A float, negated where the highest of four bits is set."""
    sign = T.bitwise_and(T.shift_left(word, 28 - 4 * quad), _SIGN)
    return T.reinterpret("float32", T.bitwise_xor(T.reinterpret("int32", value), sign))


def sign_tables(shape: SignTablesShape) -> tirx.PrimFunc:
    """``x`` float32 ``[M, quads, 4]`` to tables float32 ``[M, quads, entries]``."""
    quads, entries = shape.quads, shape.entries

    def signed(x, c, bit):
        return T.Select(T.bitwise_and(T.shift_right(c, bit), 1) == 1, x, 0 - x)

    def entry(X, m, q, c):
        total = signed(X[m, q, 0], c, 0) + signed(X[m, q, 1], c, 1) + signed(X[m, q, 2], c, 2) + X[m, q, 3]
        return T.Select(c < 8, total, 0 - total)

    @T.prim_func(s_tir=True)
    def sign_tables(x: T.handle, tables: T.handle):
        m = T.int32()
        X = T.match_buffer(x, (m, quads, 4), "float32", align=4)
        Q = T.match_buffer(tables, (m, quads, entries), "float32", align=4)
        for i, q, c in T.grid(m, quads, entries):
            with T.sblock("entry"):
                vi, vq, vc = T.axis.remap("SSS", [i, q, c])
                Q[vi, vq, vc] = entry(X, vi, vq, vc)

    return sign_tables


def bcq_sums(shape: SumShape) -> tirx.PrimFunc:
    """``y = sum_r sum_p scale_rp * sum_q table_q[code_rpq] + bias``.

    Arguments, with ``MT`` tiles of rows: tables float32 ``[MT, rows, runs, words, 8, entries]``, words of signs int32
    ``[blocks, runs, words, P, lanes]``, scales float32 ``[blocks, runs, P, lanes]`` (only with ``shape.scaled``), bias
    float32 ``[blocks, lanes]`` (only with ``shape.bias``) and the result float32 ``[MT, rows, blocks, lanes]``.
    """
    blocks, runs, words, planes, lanes = shape.blocks, shape.runs, shape.words, shape.planes, shape.lanes
    rows, entries, scale_runs = shape.rows, shape.entries, shape.runs if shape.scaled else 1

    def term(Q, W, mt, mi, nb, r, p, n, w, q):
        return chosen([Q[mt, mi, r, w, q, c] for c in range(entries)], W[nb, r, w, p, n], q)

    def scaled(total, E, nb, r, p, n):
        return total * E[nb, r, p, n] if shape.scaled else total

    def finish(y, B, nb, n):
        return kept(y) + B[nb, n] if shape.bias else y

    @T.prim_func(s_tir=True)
    def bcq_sums(
        tables: T.handle,
        W: T.Buffer((blocks, runs, words, planes, lanes), "int32", align=4),
        E: T.Buffer((blocks, scale_runs, planes, lanes), "float32", align=4),
        B: T.Buffer((blocks, lanes), "float32", align=4),
        y: T.handle,
    ):
        tiles = T.int32()
        Q = T.match_buffer(tables, (tiles, rows, runs, words, QUADS, entries), "float32", align=4)
        Y = T.match_buffer(y, (tiles, rows, blocks, lanes), "float32", align=4)
        C = T.sblock_alloc_buffer((tiles, rows, blocks, runs, planes, lanes), "float32", scope="local")
        A = T.sblock_alloc_buffer((tiles, rows, blocks, lanes), "float32", scope="local")
        for mt, mi, nb, r, p, n, w, q in T.grid(tiles, rows, blocks, runs, planes, lanes, words, QUADS):
            with T.sblock("sum"):
                vmt, vmi, vnb, vr, vp, vn, vw, vq = T.axis.remap("SSSSSSRR", [mt, mi, nb, r, p, n, w, q])
                with T.init():
                    C[vmt, vmi, vnb, vr, vp, vn] = T.float32(0)
                C[vmt, vmi, vnb, vr, vp, vn] = C[vmt, vmi, vnb, vr, vp, vn] + term(
                    Q, W, vmt, vmi, vnb, vr, vp, vn, vw, vq
                )
        for mt, mi, nb, n, r, p in T.grid(tiles, rows, blocks, lanes, runs, planes):
            with T.sblock("scale"):
                vmt, vmi, vnb, vn, vr, vp = T.axis.remap("SSSSRR", [mt, mi, nb, n, r, p])
                with T.init():
                    A[vmt, vmi, vnb, vn] = T.float32(0)
                A[vmt, vmi, vnb, vn] = A[vmt, vmi, vnb, vn] + scaled(C[vmt, vmi, vnb, vr, vp, vn], E, vnb, vr, vp, vn)
        for mt, mi, nb, n in T.grid(tiles, rows, blocks, lanes):
            with T.sblock("store"):
                vmt, vmi, vnb, vn = T.axis.remap("SSSS", [mt, mi, nb, n])
                Y[vmt, vmi, vnb, vn] = finish(A[vmt, vmi, vnb, vn], B, vnb, vn)

    return bcq_sums
