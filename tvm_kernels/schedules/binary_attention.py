"""Schedule of linear attention by bits: heads in parallel, a tile of sums in registers, masks spread to all lanes."""

from __future__ import annotations

from tvm.s_tir import Schedule

from ..layouts.binary_attention import BinaryAttentionShape
from ..targets import Target
from .rule import Decisions, Rule, always, no_choice
from .tiles import reduce_lanes, spread, sum_in_registers


def _masked(sch: Schedule, shape: BinaryAttentionShape, _target: Target, _decisions: Decisions) -> None:
    store = sch.get_sblock("store")
    head, tile, row, value = sch.get_loops(store)
    sch.parallel(head)
    spread(sch, row, *sch.split(value, [None, shape.lanes]))
    for name in ("norm", "squares", "combine", "sum", "query_masks"):
        sch.compute_at(sch.get_sblock(name), tile, preserve_unit_loops=True)
    keep = sch.get_sblock("keep")
    sch.compute_at(keep, head, preserve_unit_loops=True)
    block, row, value = sch.get_loops(keep)[-3:]
    spread(sch, row, *sch.split(value, [None, shape.lanes]))
    sch.compute_at(sch.get_sblock("gather"), block, preserve_unit_loops=True)
    sch.compute_at(sch.get_sblock("key_masks"), head, preserve_unit_loops=True)
    for name in ("gather", "sum"):
        sum_in_registers(sch, name, shape.lanes)
    for name in ("key_masks", "query_masks"):
        sch.vectorize(sch.get_loops(sch.get_sblock(name))[-1])
    row, value = sch.get_loops(sch.get_sblock("combine"))[-2:]
    spread(sch, row, *sch.split(value, [None, shape.lanes]))
    row, lane, vector = sch.get_loops(sch.get_sblock("squares"))[-3:]
    sch.reorder(row, vector, lane)
    spread(sch, row, vector, lane)
    spread(sch, *sch.get_loops(sch.decompose_reduction(sch.get_sblock("squares"), row))[-2:])
    reduce_lanes(sch, "norm")


RULES = (Rule("masked", always, no_choice, _masked),)
