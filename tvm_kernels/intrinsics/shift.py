"""Decoding a step of codes, and the dot product of four bytes per lane."""

from __future__ import annotations

from functools import cache

from tvm.script import tirx as T

from ..compute.expressions import nibble, table_entry
from ..targets import Target
from .registration import registered
from .vectors import broadcast_four, dot_bytes, look_up_16, look_up_32, repeat_words, shift_bytes_right


@cache
def decode_nibbles(target: Target, byte: str, scope: str) -> str:
    """Packed codes of one step to table entries: two halves of ``4 * lanes`` bytes."""
    lanes, width = target.lanes, 4 * target.lanes

    @T.prim_func(s_tir=True)
    def meaning(
        W: T.Buffer((width,), "uint8", offset_factor=1, align=1),
        TB: T.Buffer((2,), "int64", offset_factor=1, align=8),
        P: T.Buffer((2, width), byte, offset_factor=1, align=1, scope=scope),
    ) -> None:
        with T.sblock("root"):
            T.reads(W[0:width], TB[0:2])
            T.writes(P[0:2, 0:width])
            for h, i in T.grid(2, width):
                with T.sblock("decode"):
                    vh, vi = T.axis.remap("SS", [h, i])
                    P[vh, vi] = T.cast(table_entry([TB[0], TB[1]], nibble(W[vi], vh)), byte)

    @T.prim_func(s_tir=True)
    def instructions(
        W: T.Buffer((width,), "uint8", offset_factor=1, align=1),
        TB: T.Buffer((2,), "int64", offset_factor=1, align=8),
        P: T.Buffer((2, width), byte, offset_factor=1, align=1, scope=scope),
    ) -> None:
        with T.sblock("root"):
            T.reads(W[0:width], TB[0:2])
            T.writes(P[0:2, 0:width])
            codes: T.let = W.vload([0], f"uint8x{width}")
            table: T.let = repeat_words([TB[0], TB[1]], lanes)
            P[0, T.ramp(0, 1, width)] = T.reinterpret(f"{byte}x{width}", look_up_16(target, table, codes))
            P[1, T.ramp(0, 1, width)] = T.reinterpret(
                f"{byte}x{width}", look_up_16(target, table, shift_bytes_right(codes, 4, lanes))
            )

    return registered(f"shiftadd.decode_nibbles.{target.name}.{byte}.{scope}", meaning, instructions)


@cache
def decode_bytes(target: Target, byte: str, scope: str) -> str:
    """Codes of one byte each, of one half of a step, to table entries."""
    width = 4 * target.lanes

    @T.prim_func(s_tir=True)
    def meaning(
        W: T.Buffer((width,), "uint8", offset_factor=1, align=1),
        TB: T.Buffer((4,), "int64", offset_factor=1, align=8),
        P: T.Buffer((width,), byte, offset_factor=1, align=1, scope=scope),
    ) -> None:
        with T.sblock("root"):
            T.reads(W[0:width], TB[0:4])
            T.writes(P[0:width])
            for i in T.serial(width):
                with T.sblock("decode"):
                    vi = T.axis.spatial(width, i)
                    P[vi] = T.cast(table_entry([TB[0], TB[1], TB[2], TB[3]], W[vi]), byte)

    @T.prim_func(s_tir=True)
    def instructions(
        W: T.Buffer((width,), "uint8", offset_factor=1, align=1),
        TB: T.Buffer((4,), "int64", offset_factor=1, align=8),
        P: T.Buffer((width,), byte, offset_factor=1, align=1, scope=scope),
    ) -> None:
        with T.sblock("root"):
            T.reads(W[0:width], TB[0:4])
            T.writes(P[0:width])
            P[T.ramp(0, 1, width)] = T.reinterpret(
                f"{byte}x{width}",
                look_up_32(target, [TB[0], TB[1], TB[2], TB[3]], W.vload([0], f"uint8x{width}")),
            )

    return registered(f"shiftadd.decode_bytes.{target.name}.{byte}.{scope}", meaning, instructions)


@cache
def dot(target: Target, byte: str, scope: str) -> str:
    """``lanes`` outputs take four columns: bytes of weights times four activations."""
    lanes, width = target.lanes, 4 * target.lanes

    @T.prim_func(s_tir=True)
    def meaning(
        P: T.Buffer((width,), byte, offset_factor=1, align=1, scope=scope),
        X: T.Buffer((4,), "int8", offset_factor=1, align=1),
        C: T.Buffer((lanes,), "int32", offset_factor=1, align=4, scope="local"),
    ) -> None:
        with T.sblock("root"):
            T.reads(C[0:lanes], P[0:width], X[0:4])
            T.writes(C[0:lanes])
            for i, j in T.grid(lanes, 4):
                with T.sblock("update"):
                    vi, vj = T.axis.remap("SR", [i, j])
                    C[vi] = C[vi] + T.cast(P[vi * 4 + vj], "int32") * T.cast(X[vj], "int32")

    @T.prim_func(s_tir=True)
    def instructions(
        P: T.Buffer((width,), byte, offset_factor=1, align=1, scope=scope),
        X: T.Buffer((4,), "int8", offset_factor=1, align=1),
        C: T.Buffer((lanes,), "int32", offset_factor=1, align=4, scope="local"),
    ) -> None:
        with T.sblock("root"):
            T.reads(C[0:lanes], P[0:width], X[0:4])
            T.writes(C[0:lanes])
            C[T.ramp(0, 1, lanes)] = dot_bytes(
                target, C[T.ramp(0, 1, lanes)], P.vload([0], f"{byte}x{width}"), broadcast_four(X, lanes, "int8")
            )

    return registered(f"shiftadd.dot.{target.name}.{byte}.{scope}", meaning, instructions)
