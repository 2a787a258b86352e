"""Schedules of the float shift layer.

Fields become exponents once per tile of rows; every product is then an addition of integers, a mask, and an addition
of floats. Plain vector code does it on every machine.
"""

from __future__ import annotations

from tvm.s_tir import Schedule

from ..layouts.shift_float import FloatShiftShape, NormalRows
from ..targets import Target
from .rule import Decisions, Rule, always, divisors, no_choice
from .tiles import parallel_blocks, reduce_lanes, spread, vectorize_lanes


def _space(shape: FloatShiftShape, target: Target) -> dict[str, list[int]]:
    room = (target.registers - 4) // (shape.rows + 2)
    return {"blocks": divisors(shape.blocks, tuple(n for n in (4, 2, 8, 1) if n <= max(room, 1)))}


def _tile(sch: Schedule, _shape: FloatShiftShape, _target: Target, decisions: Decisions) -> None:
    """Parallel over tiles of blocks, then rows, chunks, words; columns, rows and blocks unrolled; lanes in a vector."""
    add, scale, store = (sch.get_sblock(name) for name in ("add", "scale", "store"))
    sch.compute_at(scale, parallel_blocks(sch, store, decisions["blocks"]), preserve_unit_loops=True)
    row, block, lane, chunk = sch.get_loops(scale)[-4:]
    sch.reorder(chunk, row, block, lane)
    sch.compute_at(add, chunk, preserve_unit_loops=True)
    row, block, _chunk, lane, word, column, term = sch.get_loops(add)[-7:]
    sch.reorder(word, column, term, row, block, lane)
    spread(sch, column, term, row, block, lane)
    for name in ("power", "present"):
        sch.compute_at(sch.get_sblock(name), term, preserve_unit_loops=True)
        spread(sch, *sch.get_loops(sch.get_sblock(name))[-6:])
    spread(sch, *sch.get_loops(scale)[-3:])
    spread(sch, *sch.get_loops(sch.decompose_reduction(scale, chunk))[-3:])
    spread(sch, *sch.get_loops(sch.decompose_reduction(add, word))[-4:])


def _normalize(sch: Schedule, _shape: NormalRows, _target: Target, _decisions: Decisions) -> None:
    sch.parallel(sch.get_loops(sch.get_sblock("factor"))[0])
    sch.vectorize(sch.get_loops(sch.get_sblock("bits"))[-1])
    vectorize_lanes(sch, "lane_top", 1)
    reduce_lanes(sch, "top")


RULES = {
    "float_shift_linear": (Rule("vectors", always, _space, _tile),),
    "normalize_rows": (Rule("rows", always, no_choice, _normalize),),
}
