"""How many arithmetic operations does one call of each operator cost?

Pure integers, no tensors: the same functions feed the ``Cost`` sections of the docstrings, the flop formulas
and :mod:`shiftadd_transformers.cost`. Axis letters: ``M`` rows, ``N`` out features, ``K`` in features,
``G`` groups, ``P`` bit planes.

What is charged:

* every accumulate. A sum of ``t`` taps costs ``t - 1`` adds, and the bias is one more tap. The published
  simulators charge one operation per tap and so give a shift layer its accumulates for free;
* the shifts by a power-of-two scale, and the table that a look-up reads from;
* the quantisation of activations, where a layer does it (its own functions, because it depends on the layer).

What is not: sign flips (an XOR), absolute values, address arithmetic and data movement. Bytes are counted in
:mod:`shiftadd_transformers.cost`. An 8-bit variant performs the same operations as the float one on narrower
operands, so the counts here carry no width; only binary coding with 8-bit tables differs, and has its own.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass

LUT_KEY = 8
"""Inputs that one look-up key covers: eight sign bits make a byte."""


@dataclass(frozen=True)
class OpCounts:
    """How often each kind of operation runs.

    Args:
        multiply: Multiplications and divisions.
        add: Additions, subtractions and comparisons.
        shift: Multiplications by a power of two (an exponent add on floats, a bit shift on integers).
        lookup: Reads of a precomputed table.

    Examples:
        >>> OpCounts(multiply=2, add=1) + OpCounts(add=3) * 2
        OpCounts(multiply=2, add=7, shift=0, lookup=0)
        >>> OpCounts(multiply=2, add=4) - OpCounts(add=3)
        OpCounts(multiply=2, add=1, shift=0, lookup=0)
    """

    multiply: int = 0
    add: int = 0
    shift: int = 0
    lookup: int = 0

    def __add__(self, other: OpCounts) -> OpCounts:
        return OpCounts(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __sub__(self, other: OpCounts) -> OpCounts:
        return self + other * -1

    def __mul__(self, times: int) -> OpCounts:
        return OpCounts(*(a * times for a in astuple(self)))

    __rmul__ = __mul__

    @property
    def total(self) -> int:
        """All operations, whatever their kind (the flop formula)."""
        return sum(astuple(self))


SMOOTH = OpCounts(multiply=1, add=1, lookup=1)
"""A smooth function of one variable: a table with linear interpolation, which is how accelerators evaluate it."""


def _accumulates(taps: int, bias: bool) -> int:
    """Adds that join ``taps`` values and perhaps a bias; nothing to join costs nothing."""
    return max(taps + int(bias) - 1, 0)


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def dense_linear_counts(m: int, n: int, k: int, bias: bool = False) -> OpCounts:
    """``y = x W^T + b``: ``M*N*K`` multiplications, ``M*N*(K - 1 + bias)`` adds.

    Examples:
        >>> dense_linear_counts(2, 3, 4, bias=True)
        OpCounts(multiply=24, add=24, shift=0, lookup=0)
    """
    return OpCounts(multiply=m * n * k, add=m * n * _accumulates(k, bias))


def shift_linear_counts(m: int, n: int, k: int, terms: int = 1, bias: bool = False, groups: int = 1) -> OpCounts:
    """Weights that are sums of ``terms`` powers of two, with ``G`` power-of-two scales per output.

    ``M*N*K*terms`` shifts for the weights and ``M*N*G`` for the scales; ``M*N*(K*terms - 1 + bias)`` adds.
    Grouping leaves the adds unchanged: each group saves one inside and pays it back when they are joined.

    Examples:
        >>> shift_linear_counts(1, 2, 8, terms=2, groups=2)
        OpCounts(multiply=0, add=30, shift=36, lookup=0)
    """
    return OpCounts(shift=m * n * (k * terms + groups), add=m * n * _accumulates(k * terms, bias))


def adder_linear_counts(m: int, n: int, k: int, bias: bool = False, scales: int = 0) -> OpCounts:
    """``y = -sum_k |x - w|``: ``2*M*N*K`` adds (subtract, accumulate), one more per output with a bias.

    ``K`` subtractions, ``K - 1`` accumulates and the closing minus make ``2*K`` per output.

    Args:
        m: Rows.
        n: Out features.
        k: In features.
        bias: Whether one value per output is added.
        scales: Power-of-two scalings of each output (grid exponent, output scale): one shift each.

    Examples:
        >>> adder_linear_counts(1, 2, 8)
        OpCounts(multiply=0, add=32, shift=0, lookup=0)
    """
    return OpCounts(add=m * n * (2 * k + int(bias)), shift=m * n * scales)


def shift_add_linear_counts(
    m: int, n: int, k: int, terms: int = 1, groups: int = 1, bias: bool = False, scales: int = 0
) -> OpCounts:
    """ShiftAddNet's cascade: :func:`shift_linear_counts` of ``K -> N``, then adder counts of ``N -> N``.

    Examples:
        >>> shift_add_linear_counts(1, 2, 8)
        OpCounts(multiply=0, add=22, shift=18, lookup=0)
    """
    return shift_linear_counts(m, n, k, terms, False, groups) + adder_linear_counts(m, n, n, bias, scales)


def bcq_linear_counts(
    m: int,
    n: int,
    k: int,
    planes: int,
    terms: int = 1,
    row_group: int = 1,
    col_group: int | None = None,
    bias: bool = False,
    lut: bool = True,
) -> OpCounts:
    """Binary-coded weights ``sum_p alpha_p * B_p`` with ``terms``-term power-of-two scales.

    With ``C = ceil(K/8)`` look-up keys, ``NG = ceil(N/row_group)``, ``KG = ceil(K/col_group)`` scale groups:

    * scale shared by all inputs of a key (``col_group`` a multiple of 8, or all of ``K``): *look-up first*.
      One table per key, ``256*C`` adds per row; then ``P*C`` look-ups and ``P*C - 1 + bias`` adds per
      output, and ``P*KG`` scalings of ``terms`` shifts and ``terms - 1`` adds.
    * otherwise (column grouping): *shift first*. ``P*NG*K`` scalings per row, ``P*NG`` sets of tables, then
      the same look-ups. So the column-wise form needs ``row_group`` as tall as the matrix to pay off.

    Args:
        m: Rows.
        n: Out features.
        k: In features.
        planes: Bit planes ``P``.
        terms: Powers of two per scale.
        row_group: Output rows that share a scale.
        col_group: Inputs that share a scale; ``None`` means all of them.
        bias: Whether one value per output is added.
        lut: ``False`` counts the plain signed accumulation (``P*K`` taps per output, scaled at the cheaper
            end) that needs no table; it has fewer adds while ``7*P*N < 256``: for very narrow layers.

    Examples:
        >>> bcq_linear_counts(1, 100, 16, planes=3, terms=2)
        OpCounts(multiply=0, add=1312, shift=600, lookup=600)
    """
    col_group = max(k if col_group is None else col_group, 1)
    keys = _ceil_div(k, LUT_KEY)
    after, before = n * _ceil_div(k, col_group), _ceil_div(n, row_group) * k
    scale_last = (col_group >= k or col_group % LUT_KEY == 0) if lut else after <= before
    scalings = m * planes * (after if scale_last else before)
    tables = m * keys * (1 if scale_last else planes * _ceil_div(n, row_group)) if lut else 0
    taps = planes * (keys if lut else k)
    return OpCounts(
        add=m * n * _accumulates(taps, bias) + scalings * (terms - 1) + tables * 2**LUT_KEY,
        shift=scalings * terms,
        lookup=m * n * planes * keys if lut else 0,
    )


def bcq_lookup_counts(m: int, n: int, k: int, bias: bool = False) -> OpCounts:
    """Binary-coded weights read from 8-bit tables: one look-up per weight, whatever the number of planes.

    ``M*N*K`` look-ups and as many shifts by a column's step, ``M*N`` shifts for the scale, ``M*N*(K - 1 + bias)``
    adds. Building the tables is charged by :func:`quantize_tables_counts`.

    Examples:
        >>> bcq_lookup_counts(1, 2, 8)
        OpCounts(multiply=0, add=14, shift=18, lookup=16)
    """
    return OpCounts(add=m * n * _accumulates(k, bias), shift=m * n * (k + 1), lookup=m * n * k)


def matadd_counts(m: int, n: int, k: int) -> OpCounts:
    """A product with a ±1 operand: ``M*N*(K - 1)`` adds, a subtraction counting as one.

    A sign selects between adding and subtracting, which costs nothing; the sign of the first tap is a flip.

    Examples:
        >>> matadd_counts(2, 3, 8)
        OpCounts(multiply=0, add=42, shift=0, lookup=0)
    """
    return OpCounts(add=m * n * _accumulates(k, bias=False))


def quantize_rows_counts(m: int, k: int, n: int = 0) -> OpCounts:
    """Dynamic int8 activations: divide each row by its largest magnitude, undo it on ``N`` outputs.

    ``M*(K - 1)`` comparisons; ``M*(K + 1)`` multiplications (the scale's reciprocal, then every element) and
    ``M*N`` to scale the outputs back. A shift layer with 8-bit activations is not free of multiplications.

    Examples:
        >>> quantize_rows_counts(2, 8, n=3)
        OpCounts(multiply=24, add=14, shift=0, lookup=0)
    """
    return OpCounts(multiply=m * (k + 1 + n), add=m * max(k - 1, 0))


def quantize_grid_counts(m: int, k: int) -> OpCounts:
    """Activations onto a fixed power-of-two grid: one shift, one rounding add per element.

    Examples:
        >>> quantize_grid_counts(2, 8)
        OpCounts(multiply=0, add=16, shift=16, lookup=0)
    """
    return OpCounts(add=m * k, shift=m * k)


def quantize_tables_counts(m: int, k: int, planes: int) -> OpCounts:
    """8-bit look-up tables of ``2**P`` entries per activation, half of which are the other half negated.

    Per entry of one half a multiplication with the level, a shift onto the grid and a rounding add; per activation a
    subtraction for its step, and ``M*(K - 1)`` comparisons for the row's grid. The largest entry of a column is the
    one with its largest level, so finding it costs nothing.

    Examples:
        >>> quantize_tables_counts(2, 8, planes=2)
        OpCounts(multiply=32, add=62, shift=32, lookup=0)
    """
    entries = m * k * 2 ** (planes - 1)
    return OpCounts(multiply=entries, add=entries + m * k + m * max(k - 1, 0), shift=entries)


def softmax_counts(rows: int, width: int, log: bool = False) -> OpCounts:
    """Maximum, subtraction, exponential, sum, and one division (logarithmic: subtraction) per element.

    Examples:
        >>> softmax_counts(1, 2)
        OpCounts(multiply=5, add=6, shift=0, lookup=2)
    """
    if not width:
        return OpCounts()
    joined = OpCounts(add=2 * rows * (width - 1))
    last = SMOOTH * rows + OpCounts(add=rows * width) if log else OpCounts(multiply=rows * (width + 1))
    return joined + (OpCounts(add=1) + SMOOTH) * (rows * width) + last
