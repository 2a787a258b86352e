"""Schedules of the adder's tiles: tile by tile, in vectors of its rows."""

from __future__ import annotations

from tvm.s_tir import Schedule

from ..layouts.adder import AdderTilesShape
from ..targets import Target
from .rule import Decisions, Rule, always, no_choice
from .tiles import vectorize_lanes


def _rows(sch: Schedule, _shape: AdderTilesShape, _target: Target, _decisions: Decisions) -> None:
    transpose = sch.get_sblock("transpose")
    tile, *_, row = sch.get_loops(transpose)
    sch.parallel(tile)
    sch.vectorize(row)
    for name, reduced in (("sum", 1), ("top", 2)):
        vectorize_lanes(sch, name, reduced)


RULES = (Rule("rows", always, no_choice, _rows),)
