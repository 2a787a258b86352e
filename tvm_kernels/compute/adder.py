"""The adder layer on floats: ``sum_k |x - w| = sum_k x + sum_k w - 2 * sum_k min(x, w)``, group of columns by group.

A minimum and an addition per product are two thirds of what differences take. The price is cancellation. With u the
unit roundoff, B columns per group and G groups, each of the three sums of a group errs by at most (B - 1)u of the sum
of its magnitudes, the minima's counts twice, and adding the groups' distances errs by (G - 1)u of the distance. The
error of a result is therefore at most ``(3B + G)u * sum_k (|x| + |w|)``, to the first order in u. All three sums run
over a group in the same order, so that a row that equals its template has the distance zero.

The identity needs sums that are finite. `adder_tiles` also gives the largest magnitude of each row; where one is beyond
`layouts.adder.LARGEST_BITS` the same definition with ``shape.direct`` forms differences, which is right for all floats.
"""

from __future__ import annotations

from tvm import tirx
from tvm.script import tirx as T

from ..layouts.adder import AdderShape


def _at_most_zero(value):
    """Rounding can raise a distance of nothing above it; NaN stays."""
    return T.Select(value > T.float32(0), T.float32(0), value)


def adder_linear(shape: AdderShape) -> tirx.PrimFunc:
    """``y = -sum_g max(sum_k x + sum_k w - 2 * sum_k min(x, w), 0)``.

    Arguments, with ``MT`` tiles of rows: ``x`` float32 ``[MT, G, size, rows]``, its sums float32 ``[MT, G, rows]``,
    templates float32 ``[blocks, G, size, lanes]``, their sums float32 ``[blocks, G, lanes]``, and the result float32
    ``[MT, rows, blocks, lanes]``. With ``shape.direct`` the sums are not read.
    """
    blocks, groups, size, lanes, rows = shape.blocks, shape.groups, shape.size, shape.lanes, shape.rows

    def term(x, w):
        return T.abs(w - x) if shape.direct else T.min(w, x)

    def group(part, x_sum, w_sum):
        return T.float32(0) - part if shape.direct else _at_most_zero(part * T.float32(2) - (x_sum + w_sum))

    @T.prim_func(s_tir=True)
    def adder_linear(
        x: T.handle,
        x_sums: T.handle,
        W: T.Buffer((blocks, groups, size, lanes), "float32", align=4),
        SW: T.Buffer((blocks, groups, lanes), "float32", align=4),
        y: T.handle,
    ):
        tiles = T.int32()
        X = T.match_buffer(x, (tiles, groups, size, rows), "float32", align=4)
        SX = T.match_buffer(x_sums, (tiles, groups, rows), "float32", align=4)
        Y = T.match_buffer(y, (tiles, rows, blocks, lanes), "float32", align=4)
        C = T.sblock_alloc_buffer((tiles, rows, blocks, groups, lanes), "float32", scope="local")
        D = T.sblock_alloc_buffer((tiles, rows, blocks, lanes), "float32", scope="local")
        for mt, mi, nb, g, ni, k in T.grid(tiles, rows, blocks, groups, lanes, size):
            with T.sblock("part"):
                vmt, vmi, vnb, vg, vni, vk = T.axis.remap("SSSSSR", [mt, mi, nb, g, ni, k])
                with T.init():
                    C[vmt, vmi, vnb, vg, vni] = T.float32(0)
                C[vmt, vmi, vnb, vg, vni] = C[vmt, vmi, vnb, vg, vni] + term(X[vmt, vg, vk, vmi], W[vnb, vg, vk, vni])
        for mt, mi, nb, ni, g in T.grid(tiles, rows, blocks, lanes, groups):
            with T.sblock("total"):
                vmt, vmi, vnb, vni, vg = T.axis.remap("SSSSR", [mt, mi, nb, ni, g])
                with T.init():
                    D[vmt, vmi, vnb, vni] = T.float32(0)
                D[vmt, vmi, vnb, vni] = D[vmt, vmi, vnb, vni] + group(
                    C[vmt, vmi, vnb, vg, vni], SX[vmt, vg, vmi], SW[vnb, vg, vni]
                )
        for mt, mi, nb, ni in T.grid(tiles, rows, blocks, lanes):
            with T.sblock("store"):
                vmt, vmi, vnb, vni = T.axis.remap("SSSS", [mt, mi, nb, ni])
                Y[vmt, vmi, vnb, vni] = D[vmt, vmi, vnb, vni]

    return adder_linear
