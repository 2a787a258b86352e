"""Schedules of the shift layer.

*stream* decodes codes in the inner loop, for few rows: every byte of the weight is read once and memory is the limit.
*panel* decodes the codes of a few blocks once and then runs through all rows, for many rows: the dot product is the
limit. *portable* has the loops of *stream* and leaves the instructions to LLVM.
"""

from __future__ import annotations

from tvm.s_tir import Schedule

from ..intrinsics import shift as intrinsics
from ..layouts.shift import ShiftShape
from ..targets import Target
from .rule import Decisions, Rule, always, divisors, one_block
from .tiles import parallel_blocks, spread


def _needs_instructions(shape: ShiftShape, target: Target) -> str | None:
    if not (target.has("avx2") or target.has("dotprod")):
        return "the target has no dot product of bytes that the rule knows"
    return None


def _refuses_stream(shape: ShiftShape, target: Target) -> str | None:
    return "many rows" if shape.many_rows else _needs_instructions(shape, target)


def _refuses_panel(shape: ShiftShape, target: Target) -> str | None:
    return _needs_instructions(shape, target) if shape.many_rows else "few rows"


def _stream_space(shape: ShiftShape, target: Target) -> dict[str, list[int]]:
    room = (target.registers - 4) // (shape.rows * shape.pieces)
    fitting = tuple(n for n in (4, 2, 8, 1) if n <= room)
    return {"blocks": divisors(shape.blocks, fitting)}


def _panel_space(shape: ShiftShape, target: Target) -> dict[str, list[int]]:
    room = (target.registers - 3) // (shape.rows * shape.pieces)
    fitting = tuple(n for n in (3, 2, 4, 1) if n <= room)
    return {"blocks": divisors(shape.blocks, fitting)}


def _tile(sch: Schedule, blocks: int) -> tuple[object, ...]:
    """Loops common to all rules: parallel over tiles of blocks, then rows, then groups, then columns.

    Returns the parallel loop, the loop over columns and the loops inside it: half, row, block, lane, byte.
    """
    dot, scale, store = (sch.get_sblock(name) for name in ("dot", "scale", "store"))
    tiles = parallel_blocks(sch, store, blocks)
    outer = sch.get_loops(store)[0]
    sch.compute_at(scale, tiles, preserve_unit_loops=True)
    row, block, lane, group = sch.get_loops(scale)[-4:]
    sch.reorder(group, row, block, lane)
    sch.compute_at(dot, group, preserve_unit_loops=True)
    row, block, _group, piece, dot_lane, step, half, byte = sch.get_loops(dot)[-8:]
    sch.reorder(step, half, row, block, piece, dot_lane, byte)
    spread(sch, *sch.get_loops(scale)[-3:])
    spread(sch, *sch.get_loops(sch.decompose_reduction(scale, group))[-3:])
    spread(sch, *sch.get_loops(sch.decompose_reduction(dot, step))[-5:])
    for loop in (half, row, block, piece):
        sch.unroll(loop)
    return outer, step, dot_lane


def _stream(sch: Schedule, shape: ShiftShape, target: Target, decisions: Decisions) -> None:
    _, step, lane = _tile(sch, decisions["blocks"])
    decode = sch.get_sblock("decode")
    sch.compute_at(decode, step, preserve_unit_loops=True)
    *_, piece, block, _group, _step, half, _width = sch.get_loops(decode)
    for loop in (piece, block) if shape.code_bits == 4 else (piece, block, half):
        sch.unroll(loop)
    _use_instructions(sch, lane, shape, target, "local")


def _panel(sch: Schedule, shape: ShiftShape, target: Target, decisions: Decisions) -> None:
    outer, _, lane = _tile(sch, decisions["blocks"])
    decode = sch.get_sblock("decode")
    sch.set_scope(decode, 0, "global")
    sch.compute_at(decode, outer, preserve_unit_loops=True)
    _use_instructions(sch, lane, shape, target, "global")


def _use_instructions(sch: Schedule, lane: object, shape: ShiftShape, target: Target, scope: str) -> None:
    """Put the dot product at the loop over lanes, and the look-up at the loops that decode a step."""
    byte = "uint8" if shape.raised else "int8"
    *_, half, place = sch.get_loops(sch.get_sblock("decode"))
    sch.tensorize(lane, intrinsics.dot(target, byte, scope))
    if shape.code_bits == 4:
        sch.tensorize(half, intrinsics.decode_nibbles(target, byte, scope))
    else:
        sch.tensorize(place, intrinsics.decode_bytes(target, byte, scope))


def _portable(sch: Schedule, _shape: ShiftShape, _target: Target, decisions: Decisions) -> None:
    _, step, _ = _tile(sch, decisions["blocks"])
    decode = sch.get_sblock("decode")
    sch.compute_at(decode, step, preserve_unit_loops=True)
    sch.vectorize(sch.get_loops(decode)[-1])


RULES = (
    Rule("stream", _refuses_stream, _stream_space, _stream),
    Rule("panel", _refuses_panel, _panel_space, _panel),
    Rule("portable", always, one_block, _portable),
)
