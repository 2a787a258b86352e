"""Schedules of the grid: one row after the other, in vectors; rows in parallel where there are many."""

from __future__ import annotations

from tvm.s_tir import Schedule

from ..layouts.activation import RowsShape
from ..targets import Target
from .rule import Decisions, Rule


def _rows(sch: Schedule, _shape: RowsShape, _target: Target, _decisions: Decisions) -> None:
    sch.parallel(sch.get_loops(sch.get_sblock("scale"))[0])
    sch.vectorize(sch.get_loops(sch.get_sblock("codes"))[-1])
    block = sch.get_sblock("lane_top")
    lane, chunk = sch.get_loops(block)[-2:]
    sch.reorder(chunk, lane)
    sch.vectorize(lane)
    sch.vectorize(sch.get_loops(sch.decompose_reduction(block, chunk))[-1])
    block = sch.get_sblock("top")
    lane = sch.get_loops(block)[-1]
    sch.unroll(lane)
    sch.decompose_reduction(block, lane)


RULES = (Rule("rows", lambda _shape, _target: None, lambda _shape, _target: {}, _rows),)
