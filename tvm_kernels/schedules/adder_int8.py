"""Schedules of the adder layer on a grid.

*bytes* has an instruction that sums the distances of neighbouring bytes. *portable* has the same loops and leaves the
instructions to LLVM.
"""

from __future__ import annotations

from tvm.s_tir import Schedule
from tvm.s_tir.schedule import LoopRV

from ..intrinsics import adder as intrinsics
from ..layouts.adder import AdderInt8Shape
from ..targets import Target
from .rule import Decisions, Rule, always, one_block
from .tiles import fitting_blocks, parallel_blocks, spread


def _refuses_bytes(shape: AdderInt8Shape, target: Target) -> str | None:
    if target.has("avx2") or target.has("neon"):
        return None
    return "the target has no distance of bytes that the rule knows"


def _space(shape: AdderInt8Shape, target: Target) -> dict[str, list[int]]:
    return {"blocks": fitting_blocks(shape.blocks, (target.registers - 3) // shape.rows)}


def _tile(sch: Schedule, blocks: int) -> tuple[LoopRV, LoopRV, LoopRV]:
    """Loops common to all rules: parallel over tiles of blocks, then rows, then columns.

    Returns the loops over columns, over lanes and over neighbouring bytes.
    """
    distance, store = sch.get_sblock("distance"), sch.get_sblock("store")
    sch.compute_at(distance, parallel_blocks(sch, store, blocks), preserve_unit_loops=True)
    row, block, lane, chunk, byte = sch.get_loops(distance)[-5:]
    sch.reorder(chunk, row, block, lane, byte)
    sch.unroll(row)
    sch.unroll(block)
    return chunk, lane, byte


def _bytes(sch: Schedule, _shape: AdderInt8Shape, target: Target, decisions: Decisions) -> None:
    chunk, lane, _ = _tile(sch, decisions["blocks"])
    _clear_first(sch, chunk)
    sch.tensorize(lane, intrinsics.add_distances(target))


def _portable(sch: Schedule, _shape: AdderInt8Shape, _target: Target, decisions: Decisions) -> None:
    chunk, lane, byte = _tile(sch, decisions["blocks"])
    sch.reorder(byte, lane)
    sch.vectorize(lane)
    _clear_first(sch, chunk)


def _clear_first(sch: Schedule, chunk: LoopRV) -> None:
    """Clear the sums of a tile before its columns."""
    spread(sch, *sch.get_loops(sch.decompose_reduction(sch.get_sblock("distance"), chunk))[-3:])


RULES = (
    Rule("bytes", _refuses_bytes, _space, _bytes),
    Rule("portable", always, one_block, _portable),
)
