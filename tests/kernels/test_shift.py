"""The shift kernels: equal to the operator, made of the right instructions, built for every target."""

import re

import pytest
import torch
from conformance import normal
from kernels_setup import HOST, NATIVE, RUNNABLE, on_target

from shiftadd_transformers.operators import Po2Format, fit_exponent, pack_codes, quantize_codes, shift_linear
from shiftadd_transformers.operators.reference import read_codes, shift_linear_reference, signed_magnitudes
from tvm_kernels import TARGETS, MissingKernelError, target
from tvm_kernels.bridge import shift
from tvm_kernels.kernels import Kernel
from tvm_kernels.layouts.activation import RowsShape
from tvm_kernels.layouts.shift import Codebook, ShiftShape
from tvm_kernels.layouts.shift_float import FieldFormat, FloatShiftShape, NormalRows

FORMATS = [
    *(Po2Format(bits, 1, zero) for bits in (2, 3, 4, 5) for zero in (True, False)),
    *(Po2Format(bits, terms) for bits, terms in ((3, 2), (4, 2), (5, 2), (4, 3), (5, 3))),
]
SHAPES = [(16, 64, 0, 17), (70, 77, 0, 9), (33, 100, 32, 1), (5, 50, 12, 33), (130, 1, 0, 3), (1, 129, 0, 16)]
"""Outputs, columns, group size and rows: whole tiles and ragged ones, groups that do not fill a step."""
PLAIN, WIDE = Po2Format(4), Po2Format(5, 1, False)
CASES = [(HOST, fmt) for fmt in FORMATS] + [(name, fmt) for name in RUNNABLE if name != HOST for fmt in (PLAIN, WIDE)]
NATIVE_CASES = [(name, fmt) for name, fmt in CASES if name in NATIVE]
"""Every format here, and on other targets one that fits a single table of bytes and one that does not."""


def shapes(fmt):
    """Two shapes per format: every kernel takes half a second to build."""
    first = FORMATS.index(fmt) % len(SHAPES)
    return SHAPES[first], SHAPES[first - 1]


def weight(n, k, fmt, group_size, bias=True):
    """Arguments of the operator behind x, up to the activation bits."""
    dense = normal(n, k, seed=1) * torch.exp2(torch.arange(n) % 7 - 3.0).unsqueeze(1)
    exponent = fit_exponent(dense, fmt, group_size or None)
    packed = pack_codes(quantize_codes(dense, exponent, fmt, group_size or None), fmt.bits)
    vector = normal(n, seed=2) if bias else None
    return packed, exponent, vector, fmt.bits, fmt.terms, fmt.zero, group_size


@pytest.mark.parametrize(("machine", "fmt"), CASES, ids=str)
def test_integer_results_equal_the_operator_to_the_bit(machine, fmt):
    for n, k, group_size, m in shapes(fmt):
        x, arguments = normal(m, k, seed=m), weight(n, k, fmt, group_size, bias=n % 2 == 0)
        with on_target(machine):
            assert torch.equal(shift.shift_linear(x, *arguments, 8), shift_linear(x, *arguments, 8))


@pytest.mark.parametrize("activation_bits", [0, 8])
def test_every_number_of_rows(activation_bits):
    arguments = weight(48, 96, PLAIN, 0)
    for m in range(34):
        x = normal(m, 96, seed=m)
        result = shift.shift_linear(x, *arguments, activation_bits)
        assert_right(result, x, arguments, activation_bits)


def assert_right(result, x, arguments, activation_bits):
    """Equal to the operator for integers, within the bound of the reference for floats."""
    if activation_bits:
        assert torch.equal(result, shift_linear(x, *arguments, 8))
    else:
        error = (result - shift_linear_reference(x, *arguments, 0)).abs()
        assert (error <= float_error_bound(x, arguments)).all()


def extreme_rows(k):
    """Rows with faults, zeros, subnormals, ties and the largest and smallest floats."""
    x = normal(12, k)
    x[0], x[1, 3], x[2, 5], x[3, 7] = 0.0, torch.inf, -torch.inf, torch.nan
    x[4], x[5], x[6] = 1e-40, 3.4e38, -3.4e38
    x[7] = torch.arange(k) - k // 2 + 0.5
    x[8], x[9], x[10, 0] = -0.0, 2.0**-126, 3.4e38
    x[11] = torch.where(torch.arange(k) % 2 == 0, 1e-38, 1.0)
    return x


@pytest.mark.parametrize("machine", RUNNABLE)
def test_extreme_activations(machine):
    x, arguments = extreme_rows(80), weight(20, 80, PLAIN, 16)
    with on_target(machine):
        result = shift.shift_linear(x, *arguments, 8)
    expected = shift_linear(x, *arguments, 8)
    assert torch.equal(result.isnan(), expected.isnan())
    assert torch.equal(result.nan_to_num(), expected.nan_to_num())


@pytest.mark.parametrize("machine", RUNNABLE)
@pytest.mark.parametrize("bits", [4, 5])
def test_all_codes_at_their_largest_sum(machine, bits):
    """Every code in every place, against rows of ±127: nothing saturates or wraps."""
    k = 2048
    codes = torch.arange(1 << bits, dtype=torch.uint8).unsqueeze(1).expand(-1, k).contiguous()
    arguments = (pack_codes(codes, bits), torch.zeros(1 << bits, 1, dtype=torch.int8), None, bits, 1, False, 0)
    x = torch.stack([torch.full((k,), 127.0), torch.full((k,), -127.0), 127.0 * (-1) ** torch.arange(k)])
    with on_target(machine):
        assert torch.equal(shift.shift_linear(x, *arguments, 8), shift_linear(x, *arguments, 8))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_dtypes_of_activations(dtype):
    arguments = weight(24, 40, Po2Format(4), 0)
    x = normal(3, 2, 40, dtype=dtype)
    result = shift.shift_linear(x, *arguments, 8)
    assert result.dtype == dtype
    assert torch.equal(result, shift_linear(x, *arguments, 8))


def float_error_bound(x, arguments):
    """Sums of 32 columns and sums of those sums, one rounding per addition and two more for scale and bias."""
    packed, exponent, bias, bits, terms, zero, group_size = arguments
    k, fmt = x.shape[1], Po2Format(bits, terms, zero)
    group = torch.arange(k) // (group_size or max(k, 1))
    magnitudes = signed_magnitudes(read_codes(packed, bits, k), fmt).abs() * 2.0 ** exponent[:, group].double()
    roundings = 32 * terms + k / 8 + 3
    return roundings * 2.0**-24 * (x.abs().double() @ magnitudes.t() + (0 if bias is None else bias.abs())) + 1e-45


@pytest.mark.parametrize(("machine", "fmt"), NATIVE_CASES, ids=str)
def test_float_results_lie_within_the_bound(machine, fmt):
    for n, k, group_size, m in shapes(fmt):
        x, arguments = normal(m, k, seed=m), weight(n, k, fmt, group_size, bias=n % 2 == 0)
        x[:, ::5] = 0
        with on_target(machine):
            assert_right(shift.shift_linear(x, *arguments, 0), x, arguments, 0)


@pytest.mark.parametrize("machine", NATIVE)
def test_float_products_are_exact(machine):
    """One column at a time there is nothing to round: signs, zeros and scales are right."""
    arguments = weight(20, 24, Po2Format(4), 0, bias=False)
    x = torch.diag(normal(24, seed=3) * torch.exp2(torch.arange(24) - 12.0))
    with on_target(machine):
        assert torch.equal(shift.shift_linear(x, *arguments, 0).double(), shift_linear_reference(x, *arguments, 0))


@pytest.mark.parametrize("machine", NATIVE)
def test_float_extremes(machine):
    """A fault makes its row NaN; nothing overflows on the way that does not overflow in the end."""
    arguments = weight(20, 80, Po2Format(4), 0, bias=False)
    x = extreme_rows(80)
    x[5:7] = x[5:7].sign() * 1e36
    x[10, 0] = 1e36
    with on_target(machine):
        result = shift.shift_linear(x, *arguments, 0)
    faulty = torch.tensor([1, 2, 3])
    assert result[faulty].isnan().all()
    sound = torch.tensor([i for i in range(12) if i not in (1, 2, 3)])
    error = (result[sound] - shift_linear_reference(x[sound], *arguments, 0)).abs()
    vanished = 80 * 64 * 16 * torch.clamp(x[sound].abs().amax(1, keepdim=True).double() * 2.0**-125, min=2.0**-126)
    assert (error <= float_error_bound(x[sound], arguments) + vanished).all()
    assert not result[0].any()


def test_float64_without_8_bit_activations_is_refused():
    with pytest.raises(MissingKernelError, match="float32, or activation_bits=8"):
        shift.shift_linear(normal(1, 8, dtype=torch.float64), *weight(4, 8, Po2Format(4), 0), 0)


def integer_kernel(machine, rows=1, many_rows=False, fmt=PLAIN):
    book = Codebook.of(shift.levels(fmt), machine)
    blocks = 256 // machine.lanes
    shape = ShiftShape(
        blocks, 1, 32, machine.lanes, book.code_bits, len(book.tables), book.raised, True, rows, many_rows
    )
    return Kernel("shift_linear", shape, machine)


def float_kernel(machine, fmt=PLAIN):
    fields = FieldFormat.of(fmt)
    shape = FloatShiftShape(256 // machine.lanes, 8, 8, 32 // fields.columns, machine.lanes, fields, True)
    return Kernel("float_shift_linear", shape, machine)


def assembly(kernel):
    return kernel.build().inspect_source("asm")


def innermost_loops(text):
    """The bodies of loops that hold no other loop: from a label to the backward jump to it."""
    loops = re.findall(r"^(\.L\w+):\n((?:(?!^\.L\w+:).*\n)*?)\s+(?:j\w+|b\.?\w*)\s+\1\b", text, re.MULTILINE)
    return [body for _, body in loops]


@pytest.mark.parametrize("rows", [1, 8])
@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("icelake-server", ("vpermb", "vpdpbusd")),
        ("cascadelake", ("vpshufb", "vpdpbusd")),
        ("skylake-avx512", ("vpshufb", "vpmaddubsw")),
        ("haswell", ("vpshufb", "vpmaddubsw")),
        ("cortex-a76", ("tbl", "sdot")),
    ],
)
def test_integer_instructions(name, wanted, rows):
    text = assembly(integer_kernel(target(name), rows))
    for instruction in wanted:
        assert re.search(rf"\b{instruction}\b", text), instruction


def test_accumulators_stay_in_registers():
    """The inner loop of one row stores nothing: sums would otherwise travel through memory."""
    loops = [body for body in innermost_loops(assembly(integer_kernel(target("icelake-server")))) if "vpdpbusd" in body]
    assert loops
    for body in loops:
        assert not re.search(r"vmov\w+\s+%zmm\d+, .*\(%r", body)


@pytest.mark.parametrize("name", ["icelake-server", "skylake-avx512", "haswell"])
def test_float_kernel_multiplies_nothing_in_its_inner_loop(name):
    loops = [body for body in innermost_loops(assembly(float_kernel(target(name)))) if "vaddps" in body]
    assert loops
    for body in loops:
        assert not re.search(r"\bv?(p?mul|fmadd|fnmadd|pmadd|pdp)\w*", body)


@pytest.mark.parametrize("name", TARGETS)
def test_every_target_builds(name):
    machine = target(name)
    assert assembly(Kernel("quantize_rows", RowsShape.of(96, 0), machine))
    assert assembly(Kernel("normalize_rows", NormalRows.of(96, 0), machine))
    for fmt in (Po2Format(4), Po2Format(5)):
        assert assembly(integer_kernel(machine, fmt=fmt))
        assert assembly(float_kernel(machine, fmt))
    assert assembly(integer_kernel(machine, 8, many_rows=True))
