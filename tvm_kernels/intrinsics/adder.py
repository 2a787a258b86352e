"""Distances between bytes, summed where they lie, and sums of minima."""

from __future__ import annotations

from functools import cache

from tvm.script import tirx as T

from ..compute.adder_int8 import byte_distance
from ..targets import Target
from .registration import registered

_SUM_DISTANCES = {8: "llvm.x86.avx512.psad.bw.512", 4: "llvm.x86.avx2.psad.bw"}
_DISTANCES = "llvm.aarch64.neon.uabd.v16i8"
_DOT_UNSIGNED = "llvm.aarch64.neon.udot.v4i32.v16i8"
_ADD_PAIRS = {"uint16x8": "llvm.aarch64.neon.uaddlp.v8i16.v16i8", "int32x4": "llvm.aarch64.neon.uaddlp.v4i32.v8i16"}
_MINIMUM = "llvm.aarch64.neon.fmin.v4f32"


@cache
def add_distances(target: Target) -> str:
    """To each lane add the distances of its bytes: eight bytes on x86, four on ARM."""
    lanes, width, total = (target.lanes // 2, 8, "int64") if target.has("avx2") else (4, 4, "int32")
    room = lanes * width

    @T.prim_func(s_tir=True)
    def meaning(
        X: T.Buffer((width,), "uint8", offset_factor=1, align=1),
        W: T.Buffer((room,), "uint8", offset_factor=1, align=1),
        D: T.Buffer((lanes,), total, offset_factor=1, align=4, scope="local"),
    ) -> None:
        with T.sblock("root"):
            T.reads(D[0:lanes], X[0:width], W[0:room])
            T.writes(D[0:lanes])
            for i, j in T.grid(lanes, width):
                with T.sblock("update"):
                    vi, vj = T.axis.remap("SR", [i, j])
                    D[vi] = D[vi] + T.cast(byte_distance(X[vj], W[vi * width + vj]), total)

    @T.prim_func(s_tir=True)
    def instructions(
        X: T.Buffer((width,), "uint8", offset_factor=1, align=1),
        W: T.Buffer((room,), "uint8", offset_factor=1, align=1),
        D: T.Buffer((lanes,), total, offset_factor=1, align=4, scope="local"),
    ) -> None:
        with T.sblock("root"):
            T.reads(D[0:lanes], X[0:width], W[0:room])
            T.writes(D[0:lanes])
            D[T.ramp(0, 1, lanes)] = _add_distances(
                target,
                D[T.ramp(0, 1, lanes)],
                T.reinterpret(
                    f"uint8x{room}", T.broadcast(T.reinterpret(total, X.vload([0], f"uint8x{width}")), lanes)
                ),
                W.vload([0], f"uint8x{room}"),
            )

    return registered(f"shiftadd.add_distances.{target.name}", meaning, instructions)


def _add_distances(target: Target, total, x, w):
    if target.has("avx2"):
        lanes = target.lanes // 2
        return total + T.call_llvm_pure_intrin(f"int64x{lanes}", _SUM_DISTANCES[lanes], x, w)
    distances = T.call_llvm_pure_intrin("uint8x16", _DISTANCES, x, w)
    if target.has("dotprod"):  # a product with ones adds four neighbours in one instruction
        return T.call_llvm_pure_intrin("int32x4", _DOT_UNSIGNED, total, distances, T.broadcast(T.uint8(1), 16))
    for words, add_pairs in _ADD_PAIRS.items():
        distances = T.call_llvm_pure_intrin(words, add_pairs, distances)
    return total + distances


@cache
def add_minimum(target: Target) -> str:
    """To each lane add the smaller of a template's value and that of the row."""
    lanes = target.lanes

    @T.prim_func(s_tir=True)
    def meaning(
        W: T.Buffer((lanes,), "float32", offset_factor=1, align=4),
        X: T.Buffer((1,), "float32", offset_factor=1, align=4),
        C: T.Buffer((lanes,), "float32", offset_factor=1, align=4, scope="local"),
    ) -> None:
        with T.sblock("root"):
            T.reads(C[0:lanes], W[0:lanes], X[0])
            T.writes(C[0:lanes])
            for i in T.serial(lanes):
                with T.sblock("update"):
                    vi = T.axis.spatial(lanes, i)
                    C[vi] = C[vi] + T.min(W[vi], X[0])

    @T.prim_func(s_tir=True)
    def instructions(
        W: T.Buffer((lanes,), "float32", offset_factor=1, align=4),
        X: T.Buffer((1,), "float32", offset_factor=1, align=4),
        C: T.Buffer((lanes,), "float32", offset_factor=1, align=4, scope="local"),
    ) -> None:
        with T.sblock("root"):
            T.reads(C[0:lanes], W[0:lanes], X[0])
            T.writes(C[0:lanes])
            C[T.ramp(0, 1, lanes)] = C[T.ramp(0, 1, lanes)] + T.call_llvm_pure_intrin(
                f"float32x{lanes}", _MINIMUM, W.vload([0], f"float32x{lanes}"), T.broadcast(X[0], lanes)
            )

    return registered(f"shiftadd.add_minimum.{target.name}", meaning, instructions)
