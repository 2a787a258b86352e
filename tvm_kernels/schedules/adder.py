"""Schedules of the adder layer on floats.

*minimum* takes the instruction of ARM, which drops no NaN and so is none that LLVM could choose by itself. *vectors*
leaves the choice to LLVM, which finds the instruction of x86.
"""

from __future__ import annotations

from tvm.s_tir import Schedule

from ..intrinsics import adder as intrinsics
from ..layouts.adder import AdderShape
from ..targets import Target
from .rule import Decisions, Rule, always
from .tiles import clear_group, fitting_blocks, grouped_tile


def _refuses_minimum(shape: AdderShape, target: Target) -> str | None:
    if not target.has("neon"):
        return "LLVM finds the target's minimum itself"
    return "differences need no minimum" if shape.direct else None


def _space(shape: AdderShape, target: Target) -> dict[str, list[int]]:
    return {"blocks": fitting_blocks(shape.blocks, (target.registers - 3) // shape.rows)}


def _minimum(sch: Schedule, _shape: AdderShape, target: Target, decisions: Decisions) -> None:
    column, lane = grouped_tile(sch, decisions["blocks"])
    clear_group(sch, column)
    sch.tensorize(lane, intrinsics.add_minimum(target))


def _vectors(sch: Schedule, _shape: AdderShape, _target: Target, decisions: Decisions) -> None:
    column, lane = grouped_tile(sch, decisions["blocks"])
    sch.vectorize(lane)
    clear_group(sch, column)


RULES = (
    Rule("minimum", _refuses_minimum, _space, _minimum),
    Rule("vectors", always, _space, _vectors),
)
