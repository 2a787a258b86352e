"""Schedule of distances between queries and keys: heads in parallel, a block of keys near while all queries pass."""

from __future__ import annotations

from tvm.s_tir import Schedule

from ..layouts.head_distances import HeadDistancesShape
from ..targets import Target
from .rule import Decisions, Rule, always, no_choice
from .tiles import spread, sum_in_registers


def _tiles(sch: Schedule, shape: HeadDistancesShape, _target: Target, _decisions: Decisions) -> None:
    head, block, tile, row, key = sch.get_loops(sch.get_sblock("store"))
    sch.parallel(head)
    spread(sch, row, *sch.split(key, [None, shape.lanes]))
    sch.compute_at(sch.get_sblock("sum"), tile, preserve_unit_loops=True)
    sum_in_registers(sch, "sum", shape.lanes)
    sch.compute_at(sch.get_sblock("transpose"), block, preserve_unit_loops=True)
    sch.vectorize(sch.get_loops(sch.get_sblock("transpose"))[-1])


RULES = (Rule("tiles", always, no_choice, _tiles),)
