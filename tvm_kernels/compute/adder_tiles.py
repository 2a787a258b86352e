"""Rows of floats as `adder` reads them: column after column, with sums in the order in which it sums minima."""

from __future__ import annotations

from tvm import tirx
from tvm.script import tirx as T

from ..layouts.adder import AdderTilesShape
from .grid import magnitude_bits


def adder_tiles(shape: AdderTilesShape) -> tirx.PrimFunc:
    """Transpose tiles of rows, sum each row over groups of columns, and find the largest magnitude of each row.

    Arguments, with ``T`` tiles: rows float32 ``[T, rows, G, size]``, their transpose ``[T, G, size, rows]``, sums
    ``[T, G, rows]``, and the bits of the largest magnitudes int32 ``[T, rows]``.
    """
    groups, size, rows = shape.groups, shape.size, shape.rows

    @T.prim_func(s_tir=True)
    def adder_tiles(x: T.handle, transposed: T.handle, sums: T.handle, top: T.handle):
        tiles = T.int32()
        X = T.match_buffer(x, (tiles, rows, groups, size), "float32", align=4)
        Y = T.match_buffer(transposed, (tiles, groups, size, rows), "float32", align=4)
        S = T.match_buffer(sums, (tiles, groups, rows), "float32", align=4)
        B = T.match_buffer(top, (tiles, rows), "int32", align=4)
        for t in T.serial(tiles):
            for g, k, i in T.grid(groups, size, rows):
                with T.sblock("transpose"):
                    vt, vg, vk, vi = T.axis.remap("SSSS", [t, g, k, i])
                    Y[vt, vg, vk, vi] = X[vt, vi, vg, vk]
            for g, i, k in T.grid(groups, rows, size):
                with T.sblock("sum"):
                    vt, vg, vi, vk = T.axis.remap("SSSR", [t, g, i, k])
                    with T.init():
                        S[vt, vg, vi] = T.float32(0)
                    S[vt, vg, vi] = S[vt, vg, vi] + Y[vt, vg, vk, vi]
            for i, g, k in T.grid(rows, groups, size):
                with T.sblock("top"):
                    vt, vi, vg, vk = T.axis.remap("SSRR", [t, i, g, k])
                    with T.init():
                        B[vt, vi] = 0
                    B[vt, vi] = T.max(B[vt, vi], magnitude_bits(Y[vt, vg, vk, vi]))

    return adder_tiles
