"""Counts equal what a loop over the definition would do."""

import itertools

import pytest

from shiftadd_transformers.operators.counts import (
    OpCounts,
    adder_linear_counts,
    bcq_linear_counts,
    bcq_lookup_counts,
    dense_linear_counts,
    matadd_counts,
    quantize_grid_counts,
    quantize_rows_counts,
    quantize_tables_counts,
    shift_add_linear_counts,
    shift_linear_counts,
)

SHAPES = [(1, 1, 1), (2, 3, 5), (7, 4, 16), (3, 10, 63)]


def test_counts_add_and_scale():
    counts = OpCounts(1, 2, 3, 4)
    assert counts + counts == counts * 2 == 2 * counts == OpCounts(2, 4, 6, 8)
    assert counts.total == 10


def loop_dense(m, n, k, bias):
    multiply = add = 0
    for _ in itertools.product(range(m), range(n)):
        taps = [None] * k + [None] * bias
        multiply += k
        add += max(len(taps) - 1, 0)
    return OpCounts(multiply=multiply, add=add)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bias", [False, True])
def test_dense(shape, bias):
    assert dense_linear_counts(*shape, bias) == loop_dense(*shape, bias)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("terms", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("bias", [False, True])
def test_shift(shape, terms, groups, bias):
    m, n, k = shape
    shift = add = 0
    for _ in itertools.product(range(m), range(n)):
        sizes = [len(range(g, k, groups)) * terms for g in range(groups)]  # any split of K into groups
        sizes = [size for size in sizes if size]
        shift += sum(sizes) + groups
        add += sum(size - 1 for size in sizes) + len(sizes) - 1 + bias
    assert shift_linear_counts(m, n, k, terms, bias, groups) == OpCounts(shift=shift, add=add)


@pytest.mark.parametrize("shape", SHAPES)
def test_adder(shape):
    m, n, k = shape
    per_output = k + (k - 1) + 1  # subtract, accumulate, minus
    assert adder_linear_counts(m, n, k) == OpCounts(add=m * n * per_output)
    assert adder_linear_counts(m, n, k, bias=True, scales=2) == OpCounts(add=m * n * (per_output + 1), shift=2 * m * n)


def test_shift_add_is_the_cascade():
    assert shift_add_linear_counts(3, 4, 5) == shift_linear_counts(3, 4, 5) + adder_linear_counts(3, 4, 4)


def test_bcq_look_up_first():
    # Two keys of 8, two scale groups of 8 inputs. Per row: 2 tables of 256 adds. Per output and plane: 2
    # look-ups, each scaled by 3 shifts and 2 adds; joining 2 * 3 values takes 5 adds, the bias one.
    counts = bcq_linear_counts(2, 5, 16, planes=3, terms=3, row_group=1, col_group=8, bias=True)
    outputs = 2 * 5
    assert counts == OpCounts(
        lookup=outputs * 3 * 2,
        shift=outputs * 3 * 2 * 3,
        add=outputs * (3 * 2 * 2 + 5 + 1) + 2 * 2 * 256,
    )


def test_bcq_shift_first_when_scales_differ_inside_a_key():
    # Column grouping: each of 16 inputs is scaled per plane (2 shifts, 1 add); each plane has 2 tables.
    counts = bcq_linear_counts(1, 6, 16, planes=2, terms=2, row_group=6, col_group=1)
    assert counts == OpCounts(lookup=6 * 2 * 2, shift=2 * 16 * 2, add=2 * 16 + 2 * 2 * 256 + 6 * (2 * 2 - 1))


def test_bcq_without_tables():
    counts = bcq_linear_counts(1, 6, 16, planes=2, terms=1, col_group=None, lut=False)
    assert counts == OpCounts(shift=6 * 2, add=6 * (2 * 16 - 1))


@pytest.mark.parametrize(("planes", "n", "wins"), [(1, 36, True), (1, 37, False), (3, 12, True), (3, 13, False)])
def test_bcq_tables_pay_off_from_37_outputs_times_planes(planes, n, wins):
    adds = [bcq_linear_counts(1, n, 8, planes, lut=lut).add for lut in (False, True)]
    assert (adds[0] < adds[1]) is wins


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bias", [False, True])
def test_bcq_look_up_in_tables_of_one_column(shape, bias):
    m, n, k = shape
    lookup = shift = add = 0
    for _ in itertools.product(range(m), range(n)):
        lookup += k
        shift += k + 1
        add += k - 1 + bias
    assert bcq_lookup_counts(*shape, bias) == OpCounts(lookup=lookup, shift=shift, add=add)


@pytest.mark.parametrize("shape", SHAPES)
def test_matadd(shape):
    m, n, k = shape
    assert matadd_counts(*shape) == OpCounts(add=m * n * (k - 1))


def test_tables():
    # Three planes: four of eight entries are multiplied, shifted and rounded; one difference per activation.
    assert quantize_tables_counts(2, 5, 3) == OpCounts(multiply=2 * 5 * 4, shift=2 * 5 * 4, add=2 * (5 * 4 + 5 + 4))


def test_quantisation():
    assert quantize_rows_counts(2, 8, n=3) == OpCounts(multiply=2 * (1 + 8 + 3), add=2 * 7)
    assert quantize_grid_counts(2, 8) == OpCounts(add=16, shift=16)


@pytest.mark.parametrize(("m", "n", "k"), [(0, 3, 4), (2, 0, 4)])
def test_no_outputs_cost_no_arithmetic_per_output(m, n, k):
    for counts in (dense_linear_counts, shift_linear_counts, adder_linear_counts, matadd_counts, bcq_lookup_counts):
        assert counts(m, n, k).total == 0


def test_no_inputs_leave_no_negative_counts():
    for counts in (dense_linear_counts, shift_linear_counts, adder_linear_counts, matadd_counts, bcq_lookup_counts):
        assert counts(2, 3, 0).add == 0
    assert bcq_linear_counts(2, 3, 0, 1).add == 0
