"""Schedules of the tables of the binary-coded layer: one row after the other, in vectors of columns."""

from __future__ import annotations

from tvm.s_tir import Schedule

from ..layouts.bcq import TablesShape
from ..targets import Target
from .activation import vectorize_lanes
from .rule import Decisions, Rule
from .tiles import spread


def _rows(sch: Schedule, _shape: TablesShape, _target: Target, _decisions: Decisions) -> None:
    sch.parallel(sch.get_loops(sch.get_sblock("unit"))[0])
    for name in ("shift", "factor"):
        sch.vectorize(sch.get_loops(sch.get_sblock(name))[-1])
    for name in ("entry", "word"):
        spread(sch, *sch.get_loops(sch.get_sblock(name))[-2:])
    for name in ("lane_exponent", "lane_fault"):
        vectorize_lanes(sch, name, 1)
    for name in ("exponent", "fault"):
        block = sch.get_sblock(name)
        lane = sch.get_loops(block)[-1]
        sch.unroll(lane)
        sch.decompose_reduction(block, lane)


RULES = (Rule("rows", lambda _shape, _target: None, lambda _shape, _target: {}, _rows),)
