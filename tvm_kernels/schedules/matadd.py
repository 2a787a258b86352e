"""Schedules of the products with a binary operand: heads in parallel, tables near the core that reads them.

*rows* keeps a tile of results in registers while the tables of a slice of values pass: a look-up is a load. Slices may
overlap, so all of a head belong to one task. *permute* keeps tables of a few rows near while all signs pass: a look-up
is an instruction on a register; machines without it take *rows* with values and result transposed.
"""

from __future__ import annotations

from tvm.s_tir import Schedule

from ..intrinsics import matadd as intrinsics
from ..layouts.matadd import RegisterShape, TableShape
from ..targets import Target
from .rule import Decisions, Rule
from .tiles import spread


def _rows(sch: Schedule, shape: TableShape, _target: Target, _decisions: Decisions) -> None:
    read, table, total, store = (sch.get_sblock(name) for name in ("read", "table", "sum", "store"))
    head, part, tile, row, column = sch.get_loops(store)
    sch.parallel(head)
    spread(sch, row, *sch.split(column, [None, shape.lanes]))
    sch.compute_at(total, tile, preserve_unit_loops=True)
    row, column, octet, half = sch.get_loops(total)[-4:]
    vector, lane = sch.split(column, [None, shape.lanes])
    sch.reorder(octet, half, row, vector, lane)
    spread(sch, half, row, vector, lane)
    spread(sch, *sch.get_loops(sch.decompose_reduction(total, octet))[-3:])
    sch.compute_at(table, part, preserve_unit_loops=True)
    octet, half, entry, column = sch.get_loops(table)[-4:]
    vector, lane = sch.split(column, [None, shape.lanes])
    sch.reorder(octet, vector, half, entry, lane)
    spread(sch, half, entry, lane)
    sch.compute_at(read, vector, preserve_unit_loops=True)
    spread(sch, *sch.get_loops(read)[-2:])


def _permute(sch: Schedule, shape: RegisterShape, target: Target, _decisions: Decisions) -> None:
    total, store = sch.get_sblock("sum"), sch.get_sblock("store")
    head, tile, block, row, lane = sch.get_loops(store)
    sch.parallel(head)
    spread(sch, row, lane)
    sch.compute_at(total, block, preserve_unit_loops=True)
    row, lane, word, code = sch.get_loops(total)[-4:]
    sch.reorder(word, code, row, lane)
    sch.compute_at(sch.get_sblock("table"), tile, preserve_unit_loops=True)
    spread(sch, *sch.get_loops(sch.get_sblock("table"))[-2:])
    sch.compute_at(sch.get_sblock("code"), code, preserve_unit_loops=True)
    sch.compute_at(sch.get_sblock("word"), head, preserve_unit_loops=True)
    sch.vectorize(sch.get_loops(sch.get_sblock("code"))[-1])
    spread(sch, *sch.get_loops(sch.decompose_reduction(total, word))[-2:])
    sch.unroll(code)
    sch.unroll(row)
    sch.tensorize(lane, intrinsics.add_chosen(target, shape))


def _applies(_shape: object, _target: Target) -> None:
    """Every target has what the rule asks for."""


def _no_space(_shape: object, _target: Target) -> dict[str, list[int]]:
    return {}


def _refuses_permute(shape: RegisterShape, target: Target) -> str | None:
    return None if target.has("avx2") else "the target has no permutation of floats that the rule knows"


RULES = {
    "matadd": (Rule("rows", _applies, _no_space, _rows),),
    "matadd_right": (Rule("permute", _refuses_permute, _no_space, _permute),),
}
