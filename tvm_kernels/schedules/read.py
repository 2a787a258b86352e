"""The schedule of a plain read: pieces in parallel, vectors side by side."""

from __future__ import annotations

from tvm.s_tir import Schedule
from tvm.s_tir.schedule import SBlockRV

from ..layouts.read import ReadShape
from ..targets import Target
from .rule import Decisions, Rule, always, no_choice


def _streams(sch: Schedule, _shape: ReadShape, _target: Target, _decisions: Decisions) -> None:
    total, store = sch.get_sblock("sum"), sch.get_sblock("store")
    part, *_ = sch.get_loops(store)
    sch.parallel(part)
    sch.compute_at(total, part, preserve_unit_loops=True)
    stream, lane, step = sch.get_loops(total)[-3:]
    sch.reorder(step, stream, lane)
    _spread(sch, store)
    _spread(sch, total)
    _spread(sch, sch.decompose_reduction(total, step))


def _spread(sch: Schedule, block: SBlockRV) -> None:
    stream, lane = sch.get_loops(block)[-2:]
    sch.unroll(stream)
    sch.vectorize(lane)


RULES = (Rule("streams", always, no_choice, _streams),)
