"""Schedules of the row quantisation: one row after the other, in vectors; rows in parallel where there are many."""

from __future__ import annotations

from tvm.s_tir import Schedule

from ..layouts.activation import RowsShape
from ..targets import Target
from .rule import Decisions, Rule


def _rows(sch: Schedule, _shape: RowsShape, _target: Target, _decisions: Decisions) -> None:
    sch.parallel(sch.get_loops(sch.get_sblock("sum"))[0])
    sch.vectorize(sch.get_loops(sch.get_sblock("codes"))[-1])
    for name, reduced in (("lane_top", 2), ("lane_sum", 1)):
        vectorize_lanes(sch, name, reduced)
    for name in ("top", "sum"):
        block = sch.get_sblock(name)
        lane = sch.get_loops(block)[-1]
        sch.unroll(lane)
        sch.decompose_reduction(block, lane)


def vectorize_lanes(sch: Schedule, name: str, reduced: int) -> None:
    """Put the lanes of a reduction inside its reduced loops, as a vector."""
    block = sch.get_sblock(name)
    lane, *others = sch.get_loops(block)[-1 - reduced :]
    sch.reorder(*others, lane)
    sch.vectorize(lane)
    sch.vectorize(sch.get_loops(sch.decompose_reduction(block, others[0]))[-1])


RULES = (Rule("rows", lambda _shape, _target: None, lambda _shape, _target: {}, _rows),)
