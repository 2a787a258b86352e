"""The look-up of signed sums of floats: eight tables per word of signs."""

from __future__ import annotations

from functools import cache

from tvm.script import tirx as T

from ..compute.bcq_float import chosen
from ..layouts.bcq_float import QUADS
from ..targets import Target
from .registration import registered
from .vectors import look_up_floats


@cache
def sum_quads(target: Target, entries: int) -> str:
    """``lanes`` outputs take the 32 columns of one word."""
    lanes = target.lanes

    def term(Q, W, n, q):
        return chosen([Q[q, c] for c in range(entries)], W[n], q)

    @T.prim_func(s_tir=True)
    def meaning(
        Q: T.Buffer((QUADS, entries), "float32", offset_factor=1, align=4),
        W: T.Buffer((lanes,), "int32", offset_factor=1, align=4),
        C: T.Buffer((lanes,), "float32", offset_factor=1, align=4, scope="local"),
    ) -> None:
        with T.sblock("root"):
            T.reads(C[0:lanes], W[0:lanes], Q[0:QUADS, 0:entries])
            T.writes(C[0:lanes])
            for n, q in T.grid(lanes, QUADS):
                with T.sblock("sum"):
                    vn, vq = T.axis.remap("SR", [n, q])
                    C[vn] = C[vn] + term(Q, W, vn, vq)

    @T.prim_func(s_tir=True)
    def instructions(
        Q: T.Buffer((QUADS, entries), "float32", offset_factor=1, align=4),
        W: T.Buffer((lanes,), "int32", offset_factor=1, align=4),
        C: T.Buffer((lanes,), "float32", offset_factor=1, align=4, scope="local"),
    ) -> None:
        with T.sblock("root"):
            T.reads(C[0:lanes], W[0:lanes], Q[0:QUADS, 0:entries])
            T.writes(C[0:lanes])
            C[T.ramp(0, 1, lanes)] = _sum(C[T.ramp(0, 1, lanes)], Q, W.vload([0], f"int32x{lanes}"), entries, lanes)

    name = f"shiftadd.sum_quads.{target.name}"
    return registered(name, meaning, instructions)


def _sum(total, Q, words, entries: int, lanes: int):
    for quad in range(QUADS):
        codes = T.shift_right(words, T.broadcast(4 * quad, lanes)) if quad else words
        found = look_up_floats(Q.vload([quad, 0], f"float32x{lanes}"), codes, lanes)
        total = total + (found if entries == 16 else _flipped(found, words, quad, lanes))
    return total


def _flipped(values, words, quad: int, lanes: int):
    """Floats, negated where the highest of four bits is set."""
    raised = T.shift_left(words, T.broadcast(28 - 4 * quad, lanes))
    sign = T.bitwise_and(raised, T.broadcast(T.int32(-(1 << 31)), lanes))
    return T.reinterpret(f"float32x{lanes}", T.bitwise_xor(T.reinterpret(f"int32x{lanes}", values), sign))
