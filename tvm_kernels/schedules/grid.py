"""Schedules of the grid: one row after the other, in vectors; rows in parallel where there are many."""

from __future__ import annotations

from tvm.s_tir import Schedule

from ..layouts.activation import RowsShape
from ..targets import Target
from .rule import Decisions, Rule, always, no_choice
from .tiles import reduce_lanes, vectorize_lanes


def _rows(sch: Schedule, _shape: RowsShape, _target: Target, _decisions: Decisions) -> None:
    sch.parallel(sch.get_loops(sch.get_sblock("scale"))[0])
    sch.vectorize(sch.get_loops(sch.get_sblock("codes"))[-1])
    vectorize_lanes(sch, "lane_top", 1)
    reduce_lanes(sch, "top")


RULES = (Rule("rows", always, no_choice, _rows),)
