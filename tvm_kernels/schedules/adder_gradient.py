"""Schedule of the adder's gradient: a tile of rows and vectors of columns in registers, summed over templates."""

from __future__ import annotations

from tvm.s_tir import Schedule

from ..layouts.adder import AdderGradientShape
from ..targets import Target
from .rule import Decisions, Rule, always
from .tiles import clear_group, fitting_blocks, grouped_tile


def _space(shape: AdderGradientShape, target: Target) -> dict[str, list[int]]:
    return {"blocks": fitting_blocks(shape.blocks, (target.registers - 5) // shape.rows)}


def _vectors(sch: Schedule, _shape: AdderGradientShape, _target: Target, decisions: Decisions) -> None:
    template, lane = grouped_tile(sch, decisions["blocks"])
    sch.vectorize(lane)
    clear_group(sch, template)


RULES = (Rule("vectors", always, _space, _vectors),)
