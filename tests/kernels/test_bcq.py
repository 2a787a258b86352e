"""The binary-coded kernels: equal to the operator, made of the right instructions, built for every target."""

import re
from dataclasses import replace

import pytest
import torch
from conformance import normal
from kernels_setup import HOST, NATIVE, RUNNABLE, on_target

from shiftadd_transformers.operators import bcq_linear
from shiftadd_transformers.operators.reference import bcq_linear_reference
from tvm_kernels import TARGETS, MissingKernelError, target
from tvm_kernels.bridge import bcq
from tvm_kernels.kernels import Kernel
from tvm_kernels.layouts.bcq import LookupShape, TablesShape, register_bytes
from tvm_kernels.layouts.bcq_float import SignTablesShape, SumShape, table_entries

PLANES = [1, 2, 3, 4]
SHAPES = [(64, 64, 1), (70, 77, 9), (33, 100, 17), (5, 33, 3), (130, 1, 4), (1, 129, 33)]
"""Outputs, columns and rows: whole tiles and ragged ones."""
GROUPS = [(1, 1000), (1, 32), (1, 12), (7, 3), (1000, 1), (40, 8), (33, 64)]
"""Outputs and columns that share a scale: scales that are multiplied to sums, and to inputs."""
CASES = [(name, planes) for name in RUNNABLE for planes in (PLANES if name == HOST else (2, 3))]


def weight(planes, n, k, row_group, col_group, bias=True):
    """Arguments of the operator behind x, up to the activation bits: any signs, and scales of two powers of two."""
    generator = torch.Generator().manual_seed(n + k)
    packed = torch.randint(256, (planes, n, -(-k // 8)), dtype=torch.uint8, generator=generator)
    packed[..., -1:] &= 255 >> (-k % 8)
    shape = (planes, -(-n // row_group), -(-k // col_group), 2)
    exponents = torch.randint(58, 67, shape, dtype=torch.int8, generator=generator)
    signs = torch.randint(2, shape, dtype=torch.int8, generator=generator) * 2 - 1
    return packed, exponents * signs, normal(n, seed=2) if bias else None, row_group, col_group


def columns(planes, n, k, bias=True):
    """A weight whose products can be read from 8-bit tables."""
    return weight(planes, n, k, max(n, 1), 1, bias)


def assert_same(x, arguments):
    result, expected = bcq.bcq_linear(x, *arguments, 8), bcq_linear(x, *arguments, 8)
    torch.testing.assert_close(result, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(("machine", "planes"), CASES, ids=str)
def test_tables_equal_the_operator_to_the_bit(machine, planes):
    shapes = SHAPES[planes - 1 : planes + 2] if machine == HOST else SHAPES[1:2]
    with on_target(machine):
        for n, k, m in shapes:
            assert_same(normal(m, k, seed=m), columns(planes, n, k, bias=n % 2 == 0))


@pytest.mark.parametrize("activation_bits", [0, 8])
def test_any_number_of_rows(activation_bits):
    arguments = columns(3, 48, 96)
    for m in (0, 1, 2, 3, 8, 9, 16, 17, 33):
        x = normal(m, 96, seed=m)
        if activation_bits:
            assert_same(x, arguments)
        else:
            assert_near(x, arguments)


def test_more_rows_than_tables_are_built_for_at_once():
    assert_same(normal(401, 40), columns(2, 24, 40))
    assert_near(normal(101, 40), columns(2, 24, 40))


def extreme_rows(k):
    """Rows with faults, zeros, subnormals, ties, magnitudes far apart, and the largest and smallest floats."""
    x = normal(13, k)
    x[0], x[1, 3], x[2, 5], x[3, 7] = 0.0, torch.inf, -torch.inf, torch.nan
    x[4], x[5], x[6] = 1e-40, 3.4e38, -3.4e38
    x[7] = torch.arange(k) - k // 2 + 0.5
    x[8], x[9], x[10, 0] = -0.0, 2.0**-126, 3.4e38
    x[11] = torch.where(torch.arange(k) % 2 == 0, 1e-38, 1.0)
    x[12] *= torch.exp2(torch.arange(k) % 40 - 20.0)
    return x


@pytest.mark.parametrize(("machine", "planes"), CASES, ids=str)
def test_tables_of_extreme_activations(machine, planes):
    with on_target(machine):
        assert_same(extreme_rows(80), columns(planes, 20, 80))


@pytest.mark.parametrize("machine", RUNNABLE)
def test_sums_of_the_largest_entries(machine):
    """Every factor is 128 and every entry ±127: nothing saturates or wraps."""
    n, k = 17, 2048
    packed = torch.zeros(3, n, k // 8, dtype=torch.uint8)
    packed[:, 1::2] = 255
    codes = torch.tensor([64, 65, 66], dtype=torch.int8).view(3, 1, 1, 1).expand(3, 1, k, 1).contiguous()
    x = torch.stack([torch.full((k,), 127.0), torch.full((k,), -127.0), 127.0 * (-1) ** torch.arange(k)])
    with on_target(machine):
        assert_same(x, (packed, codes, None, n, 1))


@pytest.mark.parametrize("activation_bits", [0, 8])
@pytest.mark.parametrize(("n", "k"), [(0, 8), (8, 0), (0, 0)])
def test_empty_weights(n, k, activation_bits):
    arguments = columns(2, n, k)
    result = bcq.bcq_linear(normal(3, k), *arguments, activation_bits)
    assert torch.equal(result, bcq_linear(normal(3, k), *arguments, activation_bits))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_dtypes_of_activations(dtype):
    arguments = columns(3, 24, 40)
    x = normal(3, 2, 40, dtype=dtype)
    assert_same(x, arguments)
    if dtype != torch.float64:
        result, exact = bcq.bcq_linear(x, *arguments), bcq_linear_reference(x, *arguments)
        assert result.dtype == dtype
        assert (result - exact).abs().max() <= 2 * (bcq_linear(x, *arguments) - exact).abs().max()


def test_what_has_no_kernel_says_so():
    arguments = columns(1, 2, 8)
    with pytest.raises(MissingKernelError, match="float64"):
        bcq.bcq_linear(normal(1, 8, dtype=torch.float64), *arguments)
    with pytest.raises(MissingKernelError, match="132104 columns"):
        bcq.bcq_linear(normal(1, 132105), *columns(1, 1, 132105), 8)


def assert_near(x, arguments):
    """One rounding per addition: 128 sums of four in a run, then the runs; and three for inputs, scales and bias."""
    packed, codes, bias, row_group, col_group = arguments
    planes, k = len(packed), x.shape[1]
    ones = torch.full_like(packed, 255)
    largest = bcq_linear_reference(x.abs(), ones, codes.abs(), None if bias is None else bias.abs(), *arguments[3:])
    roundings = 4 + 128 + planes * (1 + k / min(col_group if row_group < 32 else 512, 512)) + 3
    error = (bcq.bcq_linear(x, *arguments) - bcq_linear_reference(x, *arguments)).abs()
    assert (error <= roundings * 2.0**-24 * largest).all()


@pytest.mark.parametrize("groups", GROUPS, ids=str)
@pytest.mark.parametrize("machine", NATIVE)
def test_float_sums_lie_within_the_bound(machine, groups):
    planes = 1 + GROUPS.index(groups) % 5
    with on_target(machine):
        for n, k, m in ((70, 77, 3), (96, 130, 17)) if machine == HOST else ((70, 77, 3),):
            assert_near(normal(m, k, seed=m), weight(planes, n, k, *groups, bias=m == 3))


@pytest.mark.parametrize("groups", [(1, 4096), (512, 8)], ids=str)
def test_float_errors_beside_those_of_pytorch(groups):
    arguments, x = weight(3, 256, 2048, *groups, bias=False), normal(8, 2048)
    exact = bcq_linear_reference(x, *arguments)
    error, pytorchs = ((kernel(x, *arguments) - exact).norm() for kernel in (bcq.bcq_linear, bcq_linear))
    assert error < 2 * pytorchs


@pytest.mark.parametrize("machine", NATIVE)
def test_float_faults_stay_in_their_rows(machine):
    """NaN wherever PyTorch has it; a sum of infinities of both signs may be NaN where PyTorch has an infinity."""
    x, arguments = extreme_rows(80), weight(2, 20, 80, 1, 80, bias=False)
    x[5:7], x[10, 0] = x[5:7].sign() * 1e35, 1e35
    with on_target(machine):
        result = bcq.bcq_linear(x, *arguments)
    expected = bcq_linear(x, *arguments)
    assert result[1:4].isfinite().sum() == 0
    assert result[expected.isnan()].isnan().all()
    sound = torch.ones(len(x), dtype=torch.bool)
    sound[1:4] = False
    assert result[sound].isfinite().all()


def lookup_kernel(machine, planes, rows=1):
    tables = TablesShape.of(256, planes, machine)
    register = register_bytes(planes, machine)
    shape = LookupShape(planes, register, 8, 1, machine.lanes, tables.negated, True, rows)
    return Kernel("bcq_lookup", replace(shape, steps=256 // (4 * shape.vectors)), machine)


@pytest.mark.parametrize("name", TARGETS)
def test_every_target_compiles(name):
    machine = target(name)
    for planes in (2, 3):
        lookup_kernel(machine, planes, rows=planes).build()
        Kernel("bcq_tables", TablesShape.of(256, planes, machine), machine).build()
    entries = table_entries(machine)
    Kernel("bcq_sums", SumShape(entries, 8, 2, 4, 3, machine.lanes, True, True), machine).build()
    Kernel("sign_tables", SignTablesShape(64, entries), machine).build()


def inner_loop(kernel):
    """Instructions of the longest piece of straight code."""
    pieces, current = [], []
    for line in kernel.build().inspect_source("asm").splitlines():
        if re.match(r"\.?\w+.*:", line):
            pieces.append(current)
            current = []
        elif line.startswith("\t") and not line.strip().startswith("."):
            current.append(line.split()[0])
    return max([*pieces, current], key=len)


# Look-ups, dot products and all else per vector of four columns, of four blocks of outputs.
@pytest.mark.parametrize(
    ("name", "planes", "look_up", "dot", "most"),
    [
        ("icelake-server", 2, "vpshufb", "vpdpbusd", 4.0),
        ("icelake-server", 3, "vpermb", "vpdpbusd", 4.6),
        ("icelake-server", 4, "vpermb", "vpdpbusd", 4.2),
        ("cascadelake", 2, "vpshufb", "vpdpbusd", 4.0),
    ],
)
def test_instructions_of_the_inner_loop(name, planes, look_up, dot, most):
    kernel = lookup_kernel(target(name), planes)
    code, vectors = inner_loop(kernel), 4 * kernel.shape.vectors
    arithmetic = [word for word in code if not word.startswith(("vmov", "vpbroadcast", "vbroadcast"))]
    assert code.count(look_up) == code.count(dot) == vectors
    assert not any("mul" in word for word in code if word != "vmulps")
    assert code.count("vmulps") <= 4
    assert len([word for word in arithmetic if word.startswith("v")]) <= most * vectors + 12
