"""What do tiled matrix kernels share? Blocks of outputs in parallel, a tile of rows and blocks in registers."""

from __future__ import annotations

from tvm.s_tir import Schedule
from tvm.s_tir.schedule import LoopRV, SBlockRV

from .rule import divisors


def fitting_blocks(blocks: int, room: int) -> list[int]:
    """How many blocks of a row a register tile may hold, where there is room for that many; the default first.

    >>> fitting_blocks(8, 5), fitting_blocks(3, 5), fitting_blocks(8, 0)
    ([4, 2, 1], [3, 1], [1])
    """
    return divisors(blocks, tuple(n for n in (4, 3, 2, 1) if n <= room))


def parallel_blocks(sch: Schedule, store: SBlockRV, blocks: int) -> LoopRV:
    """Reorder the loops of a result to tiles of blocks in parallel, tiles of rows, then one tile, unrolled.

    Returns the loop over tiles of rows, at which a tile is computed.
    """
    tiles, row, block, lane = sch.get_loops(store)
    outer, inner = sch.split(block, [None, blocks])
    sch.reorder(outer, tiles, row, inner, lane)
    sch.parallel(outer)
    spread(sch, row, inner, lane)
    return tiles


def parallel_tiles(sch: Schedule, store: SBlockRV, blocks: int) -> LoopRV:
    """The same with tiles of rows outermost, so that what was made of their inputs stays near while a weight passes.

    Returns the one parallel loop over tiles, at which a tile is computed.
    """
    tiles, row, block, lane = sch.get_loops(store)
    outer, inner = sch.split(block, [None, blocks])
    sch.reorder(tiles, outer, row, inner, lane)
    tile = sch.fuse(tiles, outer)
    sch.parallel(tile)
    spread(sch, row, inner, lane)
    return tile


def spread(sch: Schedule, *loops: LoopRV) -> None:
    """Unroll all loops but the last, which becomes a vector."""
    for loop in loops[:-1]:
        sch.unroll(loop)
    sch.vectorize(loops[-1])


def vectorize_lanes(sch: Schedule, name: str, reduced: int) -> None:
    """Put the lanes of a reduction inside its reduced loops, as a vector."""
    block = sch.get_sblock(name)
    lane, *others = sch.get_loops(block)[-1 - reduced :]
    sch.reorder(*others, lane)
    sch.vectorize(lane)
    sch.vectorize(sch.get_loops(sch.decompose_reduction(block, others[0]))[-1])


def reduce_lanes(sch: Schedule, name: str) -> None:
    """Reduce the lanes of a vector one after the other, without a loop."""
    block = sch.get_sblock(name)
    lane = sch.get_loops(block)[-1]
    sch.unroll(lane)
    sch.decompose_reduction(block, lane)


def grouped_tile(sch: Schedule, blocks: int) -> tuple[LoopRV, LoopRV]:
    """Loops of a result that is summed group by group: tiles as above, then groups, then what a group sums.

    The definition has the blocks ``part``, of one group, ``total``, of all, and ``store``. Returns the summing loop and
    the loop over lanes inside it.
    """
    part, total, store = (sch.get_sblock(name) for name in ("part", "total", "store"))
    sch.compute_at(total, parallel_blocks(sch, store, blocks), preserve_unit_loops=True)
    row, block, lane, group = sch.get_loops(total)[-4:]
    sch.reorder(group, row, block, lane)
    spread(sch, row, block, lane)
    sch.compute_at(part, group, preserve_unit_loops=True)
    row, block, _group, lane, summed = sch.get_loops(part)[-5:]
    sch.reorder(summed, row, block, lane)
    sch.unroll(row)
    sch.unroll(block)
    spread(sch, *sch.get_loops(sch.decompose_reduction(total, group))[-3:])
    return summed, lane


def clear_group(sch: Schedule, summed: LoopRV) -> None:
    """Clear the sums of a group before its summing loop. Loops inside it are made vectors before, if they are to be."""
    spread(sch, *sch.get_loops(sch.decompose_reduction(sch.get_sblock("part"), summed))[-4:])


def sum_in_registers(sch: Schedule, name: str, lanes: int) -> None:
    """Of a tile whose last loops are rows, values and what is summed: sum outermost, rows and vectors without loops."""
    block = sch.get_sblock(name)
    row, value, summed = sch.get_loops(block)[-3:]
    vector, lane = sch.split(value, [None, lanes])
    sch.reorder(summed, row, vector, lane)
    spread(sch, row, vector, lane)
    spread(sch, *sch.get_loops(sch.decompose_reduction(block, summed))[-3:])
