"""The adder kernels: equal to the operator on the grid, within their bound on floats, of the right instructions."""

import re
from dataclasses import replace

import pytest
import torch
from conformance import SHIFT_ADD, normal
from kernels_setup import NATIVE, on_target

import tvm_kernels
from shiftadd_transformers.operators import adder as operator
from shiftadd_transformers.operators import adder_linear, adder_linear_int8, shift_add_linear
from shiftadd_transformers.operators.reference import adder_input_gradient_reference, adder_linear_reference
from tvm_kernels import TARGETS, MissingKernelError, target
from tvm_kernels.bridge import adder, adder_int8, shift
from tvm_kernels.kernels import Kernel
from tvm_kernels.layouts.activation import RowsShape
from tvm_kernels.layouts.adder import AdderGradientShape, AdderInt8Shape, AdderShape, AdderTilesShape

N, K, MANY = 140, 131, 33
"""Few shapes, for each is compiled: ragged, with several groups of columns and templates, and many rows."""
CASES = [(N, K, (0, 1, MANY)), (5, 1, (1,))]
UNIT = 2.0**-24
MACHINES = [name for name in NATIVE if name in ("skylake-avx512", "haswell", "generic", "cortex-a76", "cortex-a72")]
"""One of each kind: none of the kernels asks for more."""


def codes(n, k, seed=1):
    return torch.randint(-128, 128, (n, k), generator=torch.Generator().manual_seed(seed), dtype=torch.int8)


def exponent(value):
    return torch.tensor(value, dtype=torch.int8)


def extreme_rows():
    """Rows with faults, zeros, subnormals, ties and the largest and smallest floats."""
    k, x = K, normal(MANY, K)
    x[0], x[1, 3], x[2, 5], x[3, 7] = 0.0, torch.inf, -torch.inf, torch.nan
    x[4], x[5], x[6] = 1e-40, 3.4e38, -3.4e38
    x[7] = torch.arange(k) - k // 2 + 0.5
    x[8], x[9], x[10, 0] = -0.0, 2.0**-126, 3.4e38
    x[11] = torch.where(torch.arange(k) % 2 == 0, 1e-38, 1.0)
    x[12, :2] = torch.tensor([torch.inf, -torch.inf])
    x[13] = 3.4e38 * (-1) ** torch.arange(k)
    return x


def assert_equal_with_faults(result, expected):
    assert torch.equal(result.isnan(), expected.isnan())
    assert torch.equal(result.nan_to_num(0, 1, -1), expected.nan_to_num(0, 1, -1))
    sound = expected.isfinite()
    assert torch.equal(result[sound], expected[sound])


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(("n", "k", "rows"), CASES)
def test_results_on_the_grid_equal_the_operator_to_the_bit(machine, n, k, rows):
    weight = codes(n, k)
    with on_target(machine):
        for m in rows:
            x = normal(m, k, seed=m) * 3
            for grid in (-5, 0, 3):
                expected = adder_linear_int8(x, weight, exponent(grid))
                assert torch.equal(adder_int8.adder_linear_int8(x, weight, exponent(grid)), expected)


def test_every_number_of_rows():
    weight = codes(N, K)
    for m in range(MANY + 1):
        x = normal(m, K, seed=m)
        expected = adder_linear_int8(x, weight, exponent(-4))
        assert torch.equal(adder_int8.adder_linear_int8(x, weight, exponent(-4)), expected), m


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("grid", [-126, -4, 120])
def test_extreme_activations_on_the_grid(machine, grid):
    x, weight = extreme_rows(), codes(N, K)
    with on_target(machine):
        result = adder_int8.adder_linear_int8(x, weight, exponent(grid))
    assert_equal_with_faults(result, adder_linear_int8(x, weight, exponent(grid)))


@pytest.mark.parametrize("machine", MACHINES)
def test_the_largest_distance_of_many_columns(machine):
    """The sum has more bits than a float: it is rounded once, as the operator does."""
    k = 70001
    weight = torch.stack([torch.full((k,), -128), torch.full((k,), 127), torch.arange(k) % 256 - 128]).to(torch.int8)
    x = torch.stack([torch.full((k,), 1e9), torch.full((k,), -1e9)])
    with on_target(machine):
        result = adder_int8.adder_linear_int8(x, weight, exponent(0))
    assert torch.equal(result, adder_linear_int8(x, weight, exponent(0)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_dtypes_on_the_grid(dtype):
    x, weight = normal(3, 11, K, dtype=dtype), codes(N, K)
    result = adder_int8.adder_linear_int8(x, weight, exponent(-4))
    assert result.dtype == dtype
    assert torch.equal(result, adder_linear_int8(x, weight, exponent(-4)))


def distance_bound(x, weight):
    """See `compute.adder`: three sums of 64 columns, and sums of those sums."""
    magnitudes = x.double().abs().sum(1, keepdim=True) + weight.double().abs().sum(1)
    return (192 + x.shape[1] / 64) * UNIT * magnitudes


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(("n", "k", "rows"), CASES)
def test_distances_lie_within_the_bound(machine, n, k, rows):
    weight = normal(n, k, seed=1)
    with on_target(machine):
        for m in rows:
            for x in (normal(m, k, seed=m), normal(m, k, seed=m) * 1e-3 + 7, normal(m, k, seed=m) * 1e20):
                result = adder.adder_linear(x, weight)
                error = (result - adder_linear_reference(x.double(), weight.double())).abs()
                assert (error <= distance_bound(x, weight)).all()
                assert (result <= 0).all()


@pytest.mark.parametrize("machine", MACHINES)
def test_a_row_that_equals_its_template_has_no_distance(machine):
    weight = normal(N, K) * torch.exp2(torch.arange(K) % 40 - 20.0)
    with on_target(machine):
        assert not adder.adder_linear(weight[:MANY].clone(), weight).diagonal().any()


@pytest.mark.parametrize("machine", MACHINES)
def test_extreme_distances(machine):
    """Faults and overflow are where the operator has them, and rows of ordinary size keep their bound beside them."""
    x, weight = extreme_rows(), normal(N, K, seed=1)
    faulty = weight.clone()
    faulty[0, 0], faulty[1, 1], faulty[2] = torch.inf, torch.nan, x[5]
    for templates in (weight, faulty):
        with on_target(machine):
            result = adder.adder_linear(x, templates)
        expected = adder_linear(x, templates)
        assert torch.equal(result.isnan(), expected.isnan())
        assert torch.equal(result.isinf(), expected.isinf())
        sound = expected.isfinite()
        torch.testing.assert_close(result[sound], expected[sound], rtol=K * UNIT, atol=0)


def test_zeros_and_subnormals():
    x, weight = torch.zeros(MANY, K), torch.zeros(N, K)
    x[1], x[2, ::2], weight[1, 1::2], weight[2] = -0.0, 1e-45, -1e-40, 1e-40
    assert torch.equal(adder.adder_linear(x, weight), adder_linear(x, weight))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_other_dtypes_of_distances(dtype):
    x, weight = normal(3, 11, K, dtype=dtype), normal(N, K, seed=1, dtype=dtype)
    result = adder.adder_linear(x, weight)
    assert result.dtype == dtype
    torch.testing.assert_close(result, adder_linear(x, weight), rtol=torch.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(("n", "k", "rows"), CASES)
def test_gradients_lie_within_the_bound(machine, n, k, rows):
    weight = normal(n, k, seed=1)
    with on_target(machine):
        for m in rows:
            x, grad = normal(m, k, seed=m), normal(m, n, seed=m + 1)
            error = adder.adder_input_gradient(grad, x, weight).double() - adder_input_gradient_reference(
                grad.double(), x.double(), weight.double()
            )
            bound = (129 + n / 128) * UNIT * grad.double().abs().sum(1, keepdim=True)
            assert (error.abs() <= bound).all()


@pytest.mark.parametrize("machine", MACHINES)
def test_gradients_of_extremes(machine):
    x, weight, grad = extreme_rows(), normal(N, K, seed=1), normal(MANY, N, seed=2)
    weight[0, 0], weight[1, 1] = torch.inf, torch.nan
    with on_target(machine):
        result = adder.adder_input_gradient(grad, x, weight)
    expected = operator.adder_input_gradient(grad, x, weight)
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5, equal_nan=True)


def test_float64_is_refused():
    x, weight = normal(1, 8, dtype=torch.float64), normal(4, 8)
    with pytest.raises(MissingKernelError, match="use float32"):
        adder.adder_linear(x, weight)
    with pytest.raises(MissingKernelError, match="use float32"):
        adder.adder_input_gradient(normal(1, 4), normal(1, 8), weight.double())


def test_a_template_that_changes_is_laid_out_again():
    x, weight = normal(MANY, K), normal(N, K, seed=1)
    before = adder.adder_linear(x, weight)
    weight += 1
    assert not torch.equal(adder.adder_linear(x, weight), before)
    torch.testing.assert_close(adder.adder_linear(x, weight), adder_linear(x, weight))


def test_training_runs_on_kernels():
    x, weight = normal(MANY, K).requires_grad_(), normal(N, K, seed=1).requires_grad_()
    grad = normal(MANY, N, seed=2)
    expected = torch.autograd.grad(adder_linear(x, weight), (x, weight), grad)
    with tvm_kernels.enabled():
        result = torch.autograd.grad(adder_linear(x, weight), (x, weight), grad)
    torch.testing.assert_close(result, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_cascade_is_its_two_kernels(dtype):
    """Sums of small integers are exact, so that nothing is left to differ from the operator either."""
    x, packed, scale, *rest = SHIFT_ADD.make(9, 24, 40, dtype)
    x = (x.float() * 4).round().to(dtype)
    with tvm_kernels.enabled():
        result = shift_add_linear(x, packed, scale, *rest)
    hidden = shift.shift_linear(x, packed, scale, None, *rest[2:], 0)
    assert torch.equal(result, adder_int8.adder_linear_int8(hidden, *rest[:2]))
    assert torch.equal(result, shift_add_linear(x, packed, scale, *rest))


def kernels(machine, rows):
    """All kernels of the adder."""
    blocks, lanes, tile = 256 // machine.lanes, machine.lanes, {"rows": rows, "many_rows": rows == 6}
    return {
        "grid": Kernel("quantize_grid", RowsShape.of(96, 0), machine),
        "int8": Kernel("adder_linear_int8", replace(AdderInt8Shape.of(256, 96, machine), **tile), machine),
        "minima": Kernel("adder_linear", AdderShape(blocks, 2, 48, lanes, **tile), machine),
        "differences": Kernel("adder_linear", AdderShape(blocks, 2, 48, lanes, direct=True, **tile), machine),
        "tiles": Kernel("adder_tiles", AdderTilesShape(2, 48, lanes, True), machine),
        "gradient": Kernel("adder_input_gradient", AdderGradientShape(blocks, 2, 128, lanes, **tile), machine),
    }


def assembly(kernel):
    return kernel.build().inspect_source("asm")


def innermost_loops(text, instruction):
    """The bodies with an instruction of loops that hold no other loop: from a label to the backward jump to it."""
    loops = re.findall(r"^(\.L\w+):\n((?:(?!^\.L\w+:).*\n)*?)\s+(?:j\w+|b\.?\w*)\s+\1\b", text, re.MULTILINE)
    return [body for _, body in loops if re.search(rf"\b{instruction}\b", body)]


INNER = [
    ("int8", "icelake-server", "vpsadbw", 24, "vpaddq"),
    ("int8", "haswell", "vpsadbw", 12, "vpaddq"),
    ("int8", "cortex-a76", "uabd", 24, "udot"),
    ("int8", "cortex-a72", "uabd", 24, "uadalp"),
    ("minima", "icelake-server", "vminps", 24, "vaddps"),
    ("minima", "haswell", "vminps", 12, "vaddps"),
    ("minima", "generic", "minps", 12, "addps"),
    ("minima", "cortex-a76", "fmin", 24, "fadd"),
    ("gradient", "icelake-server", "vminps", 24, "vfmadd231ps"),
]
"""Of six rows: a kernel, a machine, its instruction, how many fill the registers, and what sums its results."""


@pytest.mark.parametrize(("kernel", "name", "instruction", "count", "addition"), INNER)
def test_the_inner_loop_is_made_of_the_right_instructions(kernel, name, instruction, count, addition):
    loops = innermost_loops(assembly(kernels(target(name), rows=6)[kernel]), instruction)
    assert loops
    for body in loops:
        assert len(re.findall(rf"\b{instruction}\b", body)) == count
        assert len(re.findall(rf"\b{addition}\b", body)) == count
        if kernel != "gradient":  # which multiplies, and whose rows wait in memory
            assert not re.search(r"\b(v?p?mul|vfn?m|pmadd|fmul|fml)\w*", body), "an adder multiplies"
            assert not re.search(r"\bv?mov\w+\s+%[xyz]mm\d+, .*\(|\bst[rpu]\b", body), "a sum travels through memory"


@pytest.mark.parametrize("name", TARGETS)
def test_every_target_builds(name):
    for kernel in kernels(target(name), rows=1).values():
        assert assembly(kernel)
