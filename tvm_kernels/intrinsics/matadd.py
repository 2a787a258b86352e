"""Sums of four columns from a table in a register, added to the outputs that select them."""

from __future__ import annotations

from functools import cache

from tvm.script import tirx as T

from ..compute.matadd import chosen
from ..layouts.matadd import RegisterShape
from ..targets import Target
from .registration import registered

_PERMUTE = {16: "llvm.x86.avx512.permvar.sf.512", 8: "llvm.x86.avx2.permps"}


@cache
def add_chosen(target: Target, shape: RegisterShape) -> str:
    """``lanes`` outputs take four columns of one row."""
    lanes, entries = shape.lanes, shape.entries

    @T.prim_func(s_tir=True)
    def meaning(
        S: T.Buffer((entries,), "float32", offset_factor=1, align=4),
        E: T.Buffer((lanes,), "uint32", offset_factor=1, align=4, scope="local"),
        P: T.Buffer((lanes,), "float32", offset_factor=1, align=4, scope="local"),
    ) -> None:
        with T.sblock("root"):
            T.reads(P[0:lanes], E[0:lanes], S[0:entries])
            T.writes(P[0:lanes])
            for i in T.serial(lanes):
                with T.sblock("sum"):
                    vi = T.axis.spatial(lanes, i)
                    P[vi] = P[vi] + chosen([S[e] for e in range(entries)], E[vi])

    @T.prim_func(s_tir=True)
    def instructions(
        S: T.Buffer((entries,), "float32", offset_factor=1, align=4),
        E: T.Buffer((lanes,), "uint32", offset_factor=1, align=4, scope="local"),
        P: T.Buffer((lanes,), "float32", offset_factor=1, align=4, scope="local"),
    ) -> None:
        with T.sblock("root"):
            T.reads(P[0:lanes], E[0:lanes], S[0:entries])
            T.writes(P[0:lanes])
            codes: T.let = E[T.ramp(0, 1, lanes)]
            P[T.ramp(0, 1, lanes)] = P[T.ramp(0, 1, lanes)] + _chosen(shape, S.vload([0], f"float32x{lanes}"), codes)

    name = f"shiftadd.add_chosen.{target.name}"
    return registered(name, meaning, instructions)


def _chosen(shape: RegisterShape, table, codes):
    lanes = shape.lanes
    found = T.call_llvm_pure_intrin(f"float32x{lanes}", _PERMUTE[lanes], table, codes)
    if not shape.folded:
        return found
    sign = T.shift_left(T.shift_right(codes, T.broadcast(T.uint32(3), lanes)), T.broadcast(T.uint32(31), lanes))
    return T.reinterpret(f"float32x{lanes}", T.bitwise_xor(T.reinterpret(f"uint32x{lanes}", found), sign))
