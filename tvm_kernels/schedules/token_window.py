"""Schedule of windows of tokens: heads in parallel, the results of a few tokens in registers."""

from __future__ import annotations

from tvm.s_tir import Schedule

from ..layouts.token_window import TokenWindowShape
from ..targets import Target
from .rule import Decisions, Rule, always, no_choice
from .tiles import spread, sum_in_registers


def _rows(sch: Schedule, shape: TokenWindowShape, _target: Target, _decisions: Decisions) -> None:
    head, tile, row, value = sch.get_loops(sch.get_sblock("store"))
    sch.parallel(head)
    spread(sch, row, *sch.split(value, [None, shape.lanes]))
    sch.compute_at(sch.get_sblock("sum"), tile, preserve_unit_loops=True)
    sum_in_registers(sch, "sum", shape.lanes)


RULES = (Rule("rows", always, no_choice, _rows),)
