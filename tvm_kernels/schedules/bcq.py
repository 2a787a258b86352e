"""Schedules of the binary-coded layer with 8-bit tables.

Tiles of rows come first, so that their tables stay near while the weight passes; the places of a block's codes are
found once and serve all rows of a tile. *look-up* has the instructions, *portable* leaves them to LLVM.
"""

from __future__ import annotations

from tvm.s_tir import Schedule
from tvm.s_tir.schedule import LoopRV

from ..intrinsics import bcq as intrinsics
from ..layouts.bcq import LookupShape
from ..targets import Target
from .rule import Decisions, Rule, always, one_block
from .tiles import fitting_blocks, parallel_tiles, spread


def _refuses(_shape: LookupShape, target: Target) -> str | None:
    if target.has("avx2") or target.has("neon", "dotprod"):
        return None
    return "the target has no look-up and dot product of bytes that the rule knows"


def _space(shape: LookupShape, target: Target) -> dict[str, list[int]]:
    return {"blocks": fitting_blocks(shape.blocks, (target.registers - 8) // shape.rows)}


def _tile(sch: Schedule, blocks: int) -> tuple[LoopRV, LoopRV]:
    """Loops common to all rules. Returns those over the lanes of a sum and the vectors of a block's places."""
    place, total, store = (sch.get_sblock(name) for name in ("place", "sum", "store"))
    tile = parallel_tiles(sch, store, blocks)
    sch.compute_at(total, tile, preserve_unit_loops=True)
    row, block, sum_lane, step, vector, byte = sch.get_loops(total)[-6:]
    sch.reorder(step, block, row, sum_lane, vector, byte)
    sch.compute_at(place, block, preserve_unit_loops=True)
    spread(sch, *sch.get_loops(sch.decompose_reduction(total, step))[-3:])
    sch.unroll(block)
    sch.unroll(row)
    return sum_lane, sch.get_loops(place)[-2]


def _look_up(sch: Schedule, shape: LookupShape, target: Target, decisions: Decisions) -> None:
    lane, vector = _tile(sch, decisions["blocks"])
    sch.tensorize(lane, intrinsics.sum_entries(target, shape))
    sch.tensorize(vector, intrinsics.place_codes(target, shape))


def _portable(sch: Schedule, _shape: LookupShape, _target: Target, decisions: Decisions) -> None:
    _tile(sch, decisions["blocks"])


RULES = (
    Rule("look-up", _refuses, _space, _look_up),
    Rule("portable", always, one_block, _portable),
)
