"""Schedules of the binary-coded layer in floats.

Tiles of rows come first, so that their tables stay near while the weight passes. *look-up* holds a table in a vector
register, *portable* selects its entries one after the other.
"""

from __future__ import annotations

from tvm.s_tir import Schedule
from tvm.s_tir.schedule import LoopRV

from ..intrinsics import bcq_float as intrinsics
from ..layouts.bcq_float import SignTablesShape, SumShape
from ..targets import Target
from .rule import Decisions, Rule, always, no_choice, one_block
from .tiles import fitting_blocks, parallel_tiles, spread


def _refuses(_shape: SumShape, target: Target) -> str | None:
    return None if target.has("avx2") else "the target has no look-up of floats that the rule knows"


def _space(shape: SumShape, target: Target) -> dict[str, list[int]]:
    return {"blocks": fitting_blocks(shape.blocks, (target.registers - 6) // (shape.rows * shape.planes))}


def _tile(sch: Schedule, blocks: int, in_vectors: bool) -> LoopRV:
    """Loops common to all rules. Returns that over the lanes of one sum, as a vector or around the tables of a word."""
    total, scale, store = (sch.get_sblock(name) for name in ("sum", "scale", "store"))
    tile = parallel_tiles(sch, store, blocks)
    sch.compute_at(scale, tile, preserve_unit_loops=True)
    row, block, lane, run, plane = sch.get_loops(scale)[-5:]
    sch.reorder(run, row, block, plane, lane)
    spread(sch, row, block, plane, lane)
    sch.compute_at(total, run, preserve_unit_loops=True)
    row, block, _run, plane, sum_lane, word, quad = sch.get_loops(total)[-7:]
    sch.reorder(word, block, plane, row, *((quad, sum_lane) if in_vectors else (sum_lane, quad)))
    if in_vectors:
        sch.vectorize(sum_lane)
    spread(sch, *sch.get_loops(sch.decompose_reduction(scale, run))[-3:])
    spread(sch, *sch.get_loops(sch.decompose_reduction(total, word))[-4:])
    for loop in (block, plane, row):
        sch.unroll(loop)
    return sum_lane


def _look_up(sch: Schedule, shape: SumShape, target: Target, decisions: Decisions) -> None:
    lane = _tile(sch, decisions["blocks"], in_vectors=False)
    sch.tensorize(lane, intrinsics.sum_quads(target, shape.entries))


def _portable(sch: Schedule, _shape: SumShape, _target: Target, decisions: Decisions) -> None:
    _tile(sch, decisions["blocks"], in_vectors=True)


def _tables(sch: Schedule, _shape: SignTablesShape, _target: Target, _decisions: Decisions) -> None:
    row, _quad, entry = sch.get_loops(sch.get_sblock("entry"))
    sch.parallel(row)
    sch.vectorize(entry)


RULES = {
    "bcq_sums": (
        Rule("look-up", _refuses, _space, _look_up),
        Rule("portable", always, one_block, _portable),
    ),
    "sign_tables": (Rule("rows", always, no_choice, _tables),),
}
