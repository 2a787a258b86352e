"""The kernels of products with a binary operand: right on both sides, made of additions, built for every target."""

import re
from functools import cache

import pytest
import torch
from conformance import normal
from kernels_setup import NATIVE, on_target

import tvm_kernels
from shiftadd_transformers.operators import matadd, matadd_right, pack_planes
from shiftadd_transformers.operators.reference import matadd_reference, matadd_right_reference
from tvm_kernels import TARGETS, MissingKernelError, target
from tvm_kernels.bridge import matadd as bridge
from tvm_kernels.kernels import Kernel
from tvm_kernels.layouts.matadd import RegisterShape, TableShape

SHAPES = [
    (3, 196, 64, 196), (2, 33, 31, 70), (1, 5, 197, 64), (2, 1, 8, 1), (1, 17, 1, 16), (2, 8, 33, 15), (1, 130, 80, 48),
]  # fmt: skip
"""Heads, rows, reduced columns and outputs: whole vectors, overlapping ones, and less than one."""
EMPTY = [(0, 3, 5, 7), (2, 0, 5, 7), (2, 3, 0, 7), (2, 3, 5, 0)]


def left_case(heads, m, k, n):
    return pack_planes(normal(heads, m, k, seed=1)), normal(heads, k, n, seed=2)


def right_case(heads, m, k, n):
    return normal(heads, m, k, seed=2), pack_planes(normal(heads, n, k, seed=1))


def bound(k, size):
    """Two roundings in a table and one per group of four columns; ``size`` is the sum of magnitudes."""
    return (2 + (k + 3) // 4) * 2.0**-24 * size.double()


def assert_left(signs, values, result):
    error = (result.double() - matadd_reference(signs, values)).abs()
    assert (error <= bound(values.shape[-2], values.abs().sum(-2, keepdim=True))).all()


def assert_right(x, signs, result):
    error = (result.double() - matadd_right_reference(x, signs)).abs()
    assert (error <= bound(x.shape[-1], x.abs().sum(-1, keepdim=True))).all()


@pytest.mark.parametrize("machine", NATIVE)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_results_lie_within_the_bound(machine, shape):
    left, right = left_case(*shape), right_case(*shape)
    with on_target(machine):
        assert_left(*left, bridge.matadd(*left))
        assert_right(*right, bridge.matadd_right(*right))


@pytest.mark.parametrize("machine", NATIVE)
def test_integers_are_exact(machine):
    """Where nothing is rounded a kernel equals the operator to the bit, for every number of rows."""
    with on_target(machine):
        for m in range(34):
            (signs, values), (x, others) = left_case(2, m, 21, 19), right_case(2, m, 21, 19)
            values, x = (values * 9).round(), (x * 9).round()
            assert torch.equal(bridge.matadd(signs, values), matadd(signs, values))
            assert torch.equal(bridge.matadd_right(x, others), matadd_right(x, others))


@pytest.mark.parametrize("machine", NATIVE)
def test_every_pattern_of_signs_selects_its_own_sum(machine):
    """One power of two per column: the sum tells which columns were added."""
    signs = pack_planes((torch.arange(256).unsqueeze(1) >> torch.arange(8)) % 2 * 2 - 1).unsqueeze(0)
    values = torch.exp2(torch.arange(8.0)).view(1, 8, 1)
    expected = 2 * torch.arange(256.0) - 255
    with on_target(machine):
        assert torch.equal(bridge.matadd(signs, values).flatten(), expected)
        assert torch.equal(bridge.matadd_right(values.mT, signs).flatten(), expected)


@pytest.mark.parametrize("machine", NATIVE)
@pytest.mark.parametrize("shape", EMPTY, ids=str)
def test_empty_axes(machine, shape):
    left, right = left_case(*shape), right_case(*shape)
    with on_target(machine):
        assert torch.equal(bridge.matadd(*left), matadd(*left))
        assert torch.equal(bridge.matadd_right(*right), matadd_right(*right))


def extreme_values(k, n):
    """Columns with faults of one and of both signs, zeros, subnormals, and floats as large as their sum allows."""
    values = normal(k, n)
    values[3, 0] = torch.inf
    values[5, 1] = -torch.inf
    values[[2, 40], 2] = torch.inf
    values[[8, 9], 3] = torch.tensor([torch.inf, -torch.inf])
    values[7, 4] = torch.nan
    values[:, 5], values[:, 6], values[:, 7], values[:, 8] = 0.0, -0.0, 1e-42, 3.4e38 / k
    return values


@pytest.mark.parametrize("machine", NATIVE)
def test_extreme_values(machine):
    """Infinities and NaN come where the operator has them, whatever table they fall into; subnormals are kept."""
    k = 61
    signs, values = pack_planes(normal(20, k, seed=1)), extreme_values(k, 12)
    for result, expected in (
        run_on(machine, bridge.matadd, matadd, signs, values),
        run_on(machine, bridge.matadd_right, matadd_right, values.mT, signs),
    ):
        finite = expected.isfinite()
        assert torch.equal(result[~finite].nan_to_num(7.0), expected[~finite].nan_to_num(7.0))
        torch.testing.assert_close(result[finite], expected[finite], rtol=1e-4, atol=1e-4)
    signs = pack_planes(torch.ones(1, k))
    with on_target(machine):
        assert bridge.matadd(signs, values)[0, 7] == k * torch.tensor(1e-42)


def run_on(machine, kernel, operator, *arguments):
    with on_target(machine):
        return kernel(*arguments), operator(*arguments)


def test_infinities_meet_only_where_their_signs_differ():
    """Pairs of infinities in every position of a table and across tables: NaN exactly for opposite signs."""
    k = 10
    signs = torch.where(normal(64, k, seed=4) > 0, 1.0, -1.0)
    pairs = torch.combinations(torch.arange(k))
    values = torch.zeros(k, len(pairs))
    values[pairs, torch.arange(len(pairs)).unsqueeze(1)] = torch.inf
    opposite = signs[:, pairs[:, 0]] != signs[:, pairs[:, 1]]
    expected = torch.where(opposite, torch.nan, signs[:, pairs[:, 0]] * torch.inf)
    for result in (bridge.matadd(pack_planes(signs), values), bridge.matadd_right(values.mT, pack_planes(signs)).mT):
        torch.testing.assert_close(result, expected, equal_nan=True)


def test_signs_behind_the_last_column_mean_nothing():
    signs, values = left_case(1, 9, 13, 20)
    dirty = signs.clone()
    dirty[..., -1] |= 0b11100000
    assert torch.equal(bridge.matadd(dirty, values), bridge.matadd(signs, values))
    assert torch.equal(bridge.matadd_right(values.mT, dirty), bridge.matadd_right(values.mT, signs))


def test_long_sums_are_cut():
    left = left_case(1, 5, bridge._MOST_COLUMNS * 2 + 13, 20)
    assert_left(*left, bridge.matadd(*left))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_rounded_once(dtype):
    (signs, values), (x, others) = left_case(2, 9, 40, 24), right_case(2, 9, 40, 24)
    values, x = values.to(dtype), x.to(dtype)
    assert torch.equal(bridge.matadd(signs, values), bridge.matadd(signs, values.float()).to(dtype))
    assert torch.equal(bridge.matadd_right(x, others), bridge.matadd_right(x.float(), others).to(dtype))


def test_float64_is_refused():
    signs, values = left_case(1, 4, 8, 4)
    with pytest.raises(MissingKernelError, match="float32"):
        bridge.matadd(signs, values.double())
    with pytest.raises(MissingKernelError, match="float32"):
        bridge.matadd_right(values.mT.double(), signs)


def test_behind_the_operators():
    """Views of heads as attention has them, and gradients, with kernels switched on."""
    q = normal(2, 5, 3, 16).transpose(1, 2).requires_grad_()
    packed = pack_planes(normal(2, 7, 3, 16, seed=1)).transpose(1, 2)
    expected = matadd_right(q, packed), matadd(packed, q.mT)
    with tvm_kernels.enabled():
        results = matadd_right(q, packed), matadd(packed, q.mT)
    for result, wanted in zip(results, expected, strict=True):
        assert result.is_contiguous()
        torch.testing.assert_close(result, wanted, rtol=1e-5, atol=1e-5)
        one, other = (torch.autograd.grad(y.sum(), q)[0] for y in (result, wanted))
        torch.testing.assert_close(one, other)


def kernels(machine):
    """Every kernel that the bridge calls on a target."""
    left = Kernel("matadd", TableShape.of(64, machine), machine)
    if machine.has("avx2"):
        return left, Kernel("matadd_right", RegisterShape(machine.lanes), machine)
    return left, Kernel("matadd", TableShape.of(64, machine, right=True), machine)


@cache
def assembly(kernel):
    return kernel.build().inspect_source("asm")


def innermost_loops(text, instruction):
    """Bodies of loops that hold no other loop but hold the instruction."""
    loops = re.findall(r"^(\.L\w+):\n((?:(?!^\.L\w+:).*\n)*?)\s+(?:j\w+|b\.?\w*)\s+\1\b", text, re.MULTILINE)
    return [body for _, body in loops if re.search(rf"\b{instruction}\b", body)]


@pytest.mark.parametrize("name", TARGETS)
def test_every_target_builds_and_multiplies_no_float(name):
    """Addresses are multiplied as integers, between tiles."""
    for kernel in kernels(target(name)):
        text = assembly(kernel)
        assert re.search(r"\b(v?add[ps]s|fadd(\.s)?)\b", text)
        assert not re.search(r"\b(v?mul[ps][sd]|vf[nm]\w+[ps][sd]|fml[as]|fn?m(ul|add|sub)(\.[sd])?)\b", text)


@pytest.mark.parametrize(
    ("name", "register"), [("icelake-server", "zmm"), ("skylake-avx512", "zmm"), ("haswell", "ymm")]
)
def test_look_ups_are_instructions(name, register):
    """From memory an addition takes its entry itself; from registers a permutation finds it, one per addition."""
    left, right = map(assembly, kernels(target(name)))
    entry = rf"\bvaddps\s+-?\d*\(%\w+,%\w+(,\d)?\), %{register}"
    assert any(len(re.findall(entry, body)) >= 16 for body in innermost_loops(left, "vaddps"))
    (look_up,) = innermost_loops(right, "vperm(d|ps)")
    assert len(re.findall(rf"\bvperm(d|ps)\s+.*%{register}", look_up)) == len(re.findall(r"\bvaddps\b", look_up)) == 64
    assert not re.search(rf"\bvmov\w+\s+%{register}\d+, ", look_up)


@pytest.mark.parametrize("name", ["cortex-a76", "generic"])
def test_additions_take_whole_vectors(name):
    wanted = r"fadd\s+v\d+\.4s" if target(name).has("neon") else r"addps\s+.*%xmm"
    for kernel in kernels(target(name)):
        assert any(len(re.findall(wanted, body)) >= 16 for body in innermost_loops(assembly(kernel), r"f?add(ps)?"))
