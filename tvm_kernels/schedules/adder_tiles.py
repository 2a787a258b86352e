"""Schedules of the adder's tiles: tile by tile, in vectors of its rows."""

from __future__ import annotations

from tvm.s_tir import Schedule

from ..layouts.adder import AdderTilesShape
from ..targets import Target
from .rule import Decisions, Rule


def _rows(sch: Schedule, _shape: AdderTilesShape, _target: Target, _decisions: Decisions) -> None:
    transpose = sch.get_sblock("transpose")
    tile, *_, row = sch.get_loops(transpose)
    sch.parallel(tile)
    sch.vectorize(row)
    for name, reduced in (("sum", 1), ("top", 2)):
        block = sch.get_sblock(name)
        row, *columns = sch.get_loops(block)[-1 - reduced :]
        sch.reorder(*columns, row)
        sch.vectorize(row)
        sch.vectorize(sch.get_loops(sch.decompose_reduction(block, columns[0]))[-1])


RULES = (Rule("rows", lambda _shape, _target: None, lambda _shape, _target: {}, _rows),)
