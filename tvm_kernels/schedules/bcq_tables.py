"""Schedules of the tables of the binary-coded layer: one row after the other, in vectors of columns."""

from __future__ import annotations

from tvm.s_tir import Schedule

from ..layouts.bcq import TablesShape
from ..targets import Target
from .rule import Decisions, Rule, always, no_choice
from .tiles import reduce_lanes, spread, vectorize_lanes


def _rows(sch: Schedule, _shape: TablesShape, _target: Target, _decisions: Decisions) -> None:
    sch.parallel(sch.get_loops(sch.get_sblock("unit"))[0])
    for name in ("shift", "factor"):
        sch.vectorize(sch.get_loops(sch.get_sblock(name))[-1])
    for name in ("entry", "word"):
        spread(sch, *sch.get_loops(sch.get_sblock(name))[-2:])
    for name in ("lane_exponent", "lane_fault"):
        vectorize_lanes(sch, name, 1)
    for name in ("exponent", "fault"):
        reduce_lanes(sch, name)


RULES = (Rule("rows", always, no_choice, _rows),)
