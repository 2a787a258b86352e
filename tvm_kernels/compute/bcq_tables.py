"""Tables of products, one per row and column, as bytes: the steps of ``operators.bcq_tables``, to the bit."""

from __future__ import annotations

from tvm import tirx
from tvm.script import tirx as T

from ..layouts.bcq import LANES, TablesShape, table_bytes
from .expressions import INFINITY_BITS, magnitude_bits, not_a_number, round_half_even

_MANTISSA = 23
_ABOVE_127, _FIELD_OF_127 = 0x1FFFF, 133  # 127 is 1.984375 * 2**6; see operators/bcq_tables.py
_LOWEST, _HIGHEST, _FINER_BITS = -119, 120, 7


def _smallest(x, top):
    """The smallest exponent ``e`` with ``|x| * top <= 127 * 2**e``."""
    return T.shift_right(magnitude_bits(x * top) + _ABOVE_127, _MANTISSA) - _FIELD_OF_127


def _shift(smallest, exponent):
    """How many times a column's step is doubled."""
    return T.max(T.min(smallest - exponent + _FINER_BITS, _FINER_BITS), 0)


def _power(exponent):
    """``2**exponent`` by its bits."""
    return T.reinterpret("float32", T.shift_left(exponent + 127, _MANTISSA))


def _unit(exponent, fault):
    """What the integer sum of a row is multiplied by: NaN for a row that holds an infinity or a NaN."""
    return T.Select(fault < INFINITY_BITS, _power(exponent - _FINER_BITS), not_a_number())


def _entry(x, level, exponent, shift):
    scaled = round_half_even((x * level) * _power(_FINER_BITS - exponent - shift))
    return T.cast(T.max(T.min(scaled, T.float32(127)), T.float32(-127)), "int32")


def _word(entries, bits: int):
    """Up to eight byte entries as one word."""
    halves = []
    for start in range(0, len(entries), 4):
        shifted = [T.shift_left(T.bitwise_and(entry, 255), 8 * i) for i, entry in enumerate(entries[start : start + 4])]
        halves.append(sum(shifted[1:], shifted[0]))
    if len(halves) == 1:
        return T.cast(halves[0], f"int{bits}")
    low = T.bitwise_and(T.cast(halves[0], "int64"), T.int64(0xFFFFFFFF))
    return T.bitwise_or(low, T.shift_left(T.cast(halves[1], "int64"), T.int64(32)))


def bcq_tables(shape: TablesShape) -> tirx.PrimFunc:
    """Tables of rows, the factors that entries are shifted by, and the unit of every sum.

    Arguments: ``x`` float32 ``[M, J, L]``; the largest levels float32 ``[J, L]``; levels of the lower half of the
    codes float32 ``[half, J, L]``; tables ``[M, J, L, words]``, entries in ascending order; factors uint8 or int8
    ``[M, J, L]``, and units float32 ``[M]``.
    """
    chunks, lanes, words, bits = shape.chunks, LANES, shape.words, shape.word_bits
    half, byte = table_bytes(shape.planes) // 2, "int8" if shape.negated else "uint8"
    entries = 2 * half // words

    def entry(Q, m, j, c, lane):
        """Flipping all bits of a code negates its entry."""
        return Q[m, j, c, lane] if c < half else 0 - Q[m, j, 2 * half - 1 - c, lane]

    def word(Q, m, j, lane, w):
        table = [entry(Q, m, j, c, lane) for c in range(2 * half)]
        first, last = _word(table[:entries], bits), _word(table[-entries:], bits)
        return T.Select(w == 0, first, last) if words == 2 else first

    def factor(shift):
        power = T.shift_left(T.int32(1), shift)
        return T.cast(0 - power if shape.negated else power, byte)

    @T.prim_func(s_tir=True)
    def bcq_tables(
        x: T.handle,
        top: T.Buffer((chunks, lanes), "float32", align=4),
        L: T.Buffer((half, chunks, lanes), "float32", align=4),
        tables: T.handle,
        factors: T.handle,
        units: T.handle,
    ):
        m = T.int32()
        X = T.match_buffer(x, (m, chunks, lanes), "float32", align=4)
        W = T.match_buffer(tables, (m, chunks, lanes, words), f"int{bits}", align=1)
        F = T.match_buffer(factors, (m, chunks, lanes), byte, align=1)
        U = T.match_buffer(units, (m,), "float32", align=4)
        lane_exponent = T.sblock_alloc_buffer((m, lanes), "int32", scope="local")
        lane_fault = T.sblock_alloc_buffer((m, lanes), "int32", scope="local")
        exponent = T.sblock_alloc_buffer((m,), "int32", scope="local")
        fault = T.sblock_alloc_buffer((m,), "int32", scope="local")
        shift = T.sblock_alloc_buffer((m, chunks, lanes), "int32", scope="local")
        Q = T.sblock_alloc_buffer((m, chunks, half, lanes), "int32", scope="local")
        for i in T.serial(m):
            for lane, j in T.grid(lanes, chunks):
                with T.sblock("lane_exponent"):
                    vi, vl, vj = T.axis.remap("SSR", [i, lane, j])
                    with T.init():
                        lane_exponent[vi, vl] = _LOWEST
                    lane_exponent[vi, vl] = T.max(lane_exponent[vi, vl], _smallest(X[vi, vj, vl], top[vj, vl]))
            for lane, j in T.grid(lanes, chunks):
                with T.sblock("lane_fault"):
                    vi, vl, vj = T.axis.remap("SSR", [i, lane, j])
                    with T.init():
                        lane_fault[vi, vl] = 0
                    lane_fault[vi, vl] = T.max(lane_fault[vi, vl], magnitude_bits(X[vi, vj, vl]))
            for lane in T.serial(lanes):
                with T.sblock("exponent"):
                    vi, vl = T.axis.remap("SR", [i, lane])
                    with T.init():
                        exponent[vi] = _LOWEST
                    exponent[vi] = T.max(exponent[vi], T.min(lane_exponent[vi, vl], _HIGHEST))
            for lane in T.serial(lanes):
                with T.sblock("fault"):
                    vi, vl = T.axis.remap("SR", [i, lane])
                    with T.init():
                        fault[vi] = 0
                    fault[vi] = T.max(fault[vi], lane_fault[vi, vl])
            with T.sblock("unit"):
                vi = T.axis.spatial(m, i)
                U[vi] = _unit(exponent[vi], fault[vi])
            for j in T.serial(chunks):
                for lane in T.serial(lanes):
                    with T.sblock("shift"):
                        vi, vj, vl = T.axis.remap("SSS", [i, j, lane])
                        shift[vi, vj, vl] = _shift(_smallest(X[vi, vj, vl], top[vj, vl]), exponent[vi])
                for c, lane in T.grid(half, lanes):
                    with T.sblock("entry"):
                        vi, vj, vc, vl = T.axis.remap("SSSS", [i, j, c, lane])
                        Q[vi, vj, vc, vl] = _entry(X[vi, vj, vl], L[vc, vj, vl], exponent[vi], shift[vi, vj, vl])
                for lane in T.serial(lanes):
                    with T.sblock("factor"):
                        vi, vj, vl = T.axis.remap("SSS", [i, j, lane])
                        F[vi, vj, vl] = factor(shift[vi, vj, vl])
                for w, lane in T.grid(words, lanes):
                    with T.sblock("word"):
                        vi, vj, vw, vl = T.axis.remap("SSSS", [i, j, w, lane])
                        W[vi, vj, vl, vw] = word(Q, vi, vj, vl, vw)

    return bcq_tables
