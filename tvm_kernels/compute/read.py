"""A sum of words, which does nothing but read them: the time that a kernel cannot go below."""

from __future__ import annotations

from tvm import tirx
from tvm.script import tirx as T

from ..layouts.read import PARTS, STREAMS, ReadShape


def read_words(shape: ReadShape) -> tirx.PrimFunc:
    """``words`` int32 ``[parts, steps, streams, lanes]`` to their sums over ``steps``."""
    steps, lanes = shape.steps, shape.lanes

    @T.prim_func(s_tir=True)
    def read_words(
        words: T.Buffer((PARTS, steps, STREAMS, lanes), "int32", align=4),
        sums: T.Buffer((PARTS, STREAMS, lanes), "int32", align=4),
    ) -> None:
        total = T.sblock_alloc_buffer((PARTS, STREAMS, lanes), "int32", scope="local")
        for p, u, lane, k in T.grid(PARTS, STREAMS, lanes, steps):
            with T.sblock("sum"):
                vp, vu, vl, vk = T.axis.remap("SSSR", [p, u, lane, k])
                with T.init():
                    total[vp, vu, vl] = 0
                total[vp, vu, vl] = total[vp, vu, vl] + words[vp, vk, vu, vl]
        for p, u, lane in T.grid(PARTS, STREAMS, lanes):
            with T.sblock("store"):
                vp, vu, vl = T.axis.remap("SSS", [p, u, lane])
                sums[vp, vu, vl] = total[vp, vu, vl]

    return read_words
