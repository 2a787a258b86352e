"""The kernels of attention cores: linear attention by bits, and windows of tokens."""

import re
from functools import cache

import pytest
import torch
from conformance import normal
from kernels_setup import RUNNABLE, on_target

import tvm_kernels
from shiftadd_transformers import AdderAttentionSpec, BinaryLinearSpec, MixerSpec
from shiftadd_transformers.layers.attention import Visibility, core_type
from shiftadd_transformers.operators.adder_window import adder_window
from shiftadd_transformers.operators.binary_attention import binary_attention
from shiftadd_transformers.operators.head_distances import head_distances
from shiftadd_transformers.operators.token_convolution import token_convolution
from tvm_kernels import TARGETS, MissingKernelError, target
from tvm_kernels.bridge import binary_attention as bits
from tvm_kernels.bridge import head_distances as distances
from tvm_kernels.bridge import token_window as windows
from tvm_kernels.kernels import Kernel
from tvm_kernels.layouts.binary_attention import BinaryAttentionShape
from tvm_kernels.layouts.head_distances import HeadDistancesShape
from tvm_kernels.layouts.token_window import TokenWindowShape

BITS = [(2, 3, 7, 9, 8, 5), (1, 2, 33, 17, 64, 64), (1, 1, 1, 40, 20, 32), (2, 1, 5, 1, 7, 3), (1, 1, 70, 70, 32, 100)]
"""Images, heads, targets, sources, width of queries, width of values."""
WINDOWS = [(2, 3, 7, 8, 3), (1, 2, 33, 64, 9), (1, 1, 1, 20, 31), (2, 1, 5, 7, 1), (1, 1, 40, 100, 7)]
"""Images, heads, targets, width, taps."""

DISTANCES = [(3, 7, 9, 5), (2, 1, 40, 64), (4, 33, 5, 8), (1, 9, 1, 1), (1, 20, 70, 16)]
"""Heads, targets, sources, width."""


def bits_case(b, h, t, s, e, f, dtype=torch.float32):
    parts = [normal(b, h, n, w, seed=i, dtype=dtype) for i, (n, w) in enumerate(((t, e), (s, e), (s, f), (t, f)))]
    return [*parts, torch.linspace(-0.5, 0.5, h), torch.linspace(0.2, -0.2, h)]


def window_case(b, h, t, e, j, dtype=torch.float32):
    return normal(b, h, t + j - 1, e, dtype=dtype), normal(h, j, seed=1)


@pytest.mark.parametrize("machine", RUNNABLE)
@pytest.mark.parametrize("shape", BITS, ids=str)
@pytest.mark.parametrize("binary", [True, False])
def test_bits_select_what_the_operator_adds(machine, shape, binary):
    case = bits_case(*shape)
    with on_target(machine):
        torch.testing.assert_close(bits.binary_attention(*case, binary), binary_attention(*case, binary))


@pytest.mark.parametrize("machine", RUNNABLE)
@pytest.mark.parametrize("shape", WINDOWS, ids=str)
def test_windows_sum_what_the_operators_sum(machine, shape):
    x, taps = window_case(*shape)
    with on_target(machine):
        torch.testing.assert_close(windows.token_convolution(x, taps), token_convolution(x, taps), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(windows.adder_window(x, taps), adder_window(x, taps), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("machine", RUNNABLE)
@pytest.mark.parametrize("shape", DISTANCES, ids=str)
def test_distances_are_those_of_the_operator(machine, shape):
    n, t, s, e = shape
    query, key = normal(n, t, e), normal(n, s, e, seed=1)
    with on_target(machine):
        result = distances.head_distances(query, key)
    torch.testing.assert_close(result, head_distances(query, key), rtol=1e-5, atol=1e-5)
    whole = (query * 16).round(), (key * 16).round()
    with on_target(machine):
        assert torch.equal(distances.head_distances(*whole), head_distances(*whole))


def test_an_element_at_the_threshold_is_below_it_here_too():
    case = bits_case(1, 1, 4, 4, 8, 16)
    case[4], case[5] = case[0][0, 0, 1, 3].view(1), case[1][0, 0, 2, 5].view(1)
    torch.testing.assert_close(bits.binary_attention(*case, True), binary_attention(*case, True))


def test_faults_stay_where_they_are_selected():
    """A value that no code selects is not multiplied by zero: an infinity leaves no NaN behind."""
    case = bits_case(1, 1, 6, 6, 8, 16)
    case[1][0, 0, 2], case[2][0, 0, 2] = -9.0, torch.inf
    assert bits.binary_attention(*case, True).isfinite().all()


@pytest.mark.parametrize("shape", [(0, 2, 3, 4, 8, 8), (1, 2, 0, 4, 8, 8), (1, 2, 3, 0, 8, 8)], ids=str)
def test_empty_axes(shape):
    case = bits_case(*shape)
    torch.testing.assert_close(bits.binary_attention(*case, True), binary_attention(*case, True))
    x, taps = window_case(0, 2, 3, 4, 2)
    assert torch.equal(windows.adder_window(x, taps), adder_window(x, taps))
    for sizes in ((0, 2, 3, 4), (2, 0, 3, 4), (2, 2, 0, 4), (2, 2, 3, 0)):
        n, targets, sources, e = sizes
        query, key = torch.ones(n, targets, e), torch.ones(n, sources, e)
        assert torch.equal(distances.head_distances(query, key), head_distances(query, key))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_summed_in_float32(dtype):
    case = [part.to(dtype) for part in bits_case(1, 2, 9, 9, 16, 16)]
    with tvm_kernels.enabled():
        torch.testing.assert_close(bits.binary_attention(*case, False), binary_attention(*case, False))
    x, taps = window_case(1, 2, 9, 16, 5, dtype)
    torch.testing.assert_close(windows.adder_window(x, taps), adder_window(x, taps))


def test_float64_is_refused():
    case = [part.double() for part in bits_case(1, 1, 2, 2, 4, 4)]
    with pytest.raises(MissingKernelError, match="float32"):
        bits.binary_attention(*case, True)
    x, taps = window_case(1, 1, 4, 4, 3, torch.float64)
    with pytest.raises(MissingKernelError, match="float32"):
        distances.head_distances(case[0][0], case[1][0])
    for kernel in (windows.token_convolution, windows.adder_window):
        with pytest.raises(MissingKernelError, match="float32"):
            kernel(x, taps)


@pytest.mark.parametrize(
    "spec",
    [
        BinaryLinearSpec(kernel_size=3),
        AdderAttentionSpec(),
        AdderAttentionSpec(bits=8),
        MixerSpec(kernel_size=3),
        MixerSpec(op="add", kernel_size=3),
        MixerSpec(op="shift_add", attention=True, kernel_size=3),
    ],
    ids=str,
)
@pytest.mark.parametrize("causal", [False, True])
def test_cores_compute_the_same_with_kernels(spec, causal):
    core = core_type(spec)(spec, 2, 16, causal=causal).eval()
    with torch.no_grad():
        for parameter in core.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        parts = [normal(3, 2, 10, 16, seed=i) for i in range(3)]
        expected = core(*parts, Visibility(causal=causal), 0.25)
        with tvm_kernels.enabled():
            result = core(*parts, Visibility(causal=causal), 0.25)
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)


def test_training_a_convolution_with_kernels_gives_the_same_gradients():
    x, taps = (part.requires_grad_() for part in window_case(2, 2, 9, 16, 5))
    expected = torch.autograd.grad(token_convolution(x, taps).square().sum(), (x, taps))
    with tvm_kernels.enabled():
        gradients = torch.autograd.grad(token_convolution(x, taps).square().sum(), (x, taps))
    torch.testing.assert_close(gradients, expected, rtol=1e-4, atol=1e-4)


@cache
def assembly(name, kernel):
    machine = target(name)
    shapes = {
        "bits": ("binary_attention", BinaryAttentionShape.of(64, 64, True, machine)),
        "signs": ("binary_attention", BinaryAttentionShape.of(64, 64, False, machine)),
        "head distances": ("head_distances", HeadDistancesShape.of(196, machine)),
        "distances": ("token_window", TokenWindowShape.of(64, True, machine)),
        "products": ("token_window", TokenWindowShape.of(64, False, machine)),
    }
    return Kernel(*shapes[kernel], machine).build().inspect_source("asm")


def loops(text):
    """Bodies of loops that hold no other label."""
    return re.findall(r"^(\.L\w+):\n((?:(?!\.L\w+:).*\n)*?)\s+j\w+\s+\1\b", text, re.MULTILINE)


@pytest.mark.parametrize("name", TARGETS)
def test_every_target_builds(name):
    for kernel in ("bits", "signs", "head distances", "distances", "products"):
        assert assembly(name, kernel)


@pytest.mark.parametrize(("kernel", "mask"), [("bits", "vandps"), ("signs", "vxorps")])
def test_sums_over_codes_mask_and_add_whole_vectors(kernel, mask):
    """In both inner loops there is a mask for each addition, and no multiplication."""
    sums = [body for _, body in loops(assembly("skylake-avx512", kernel)) if re.search(r"vaddps\s.*%zmm", body)]
    assert len(sums) == 2
    for body in sums:
        additions = re.findall(r"vaddps\s.*%zmm", body)
        assert len(additions) >= 16
        assert len(additions) == len(re.findall(rf"{mask}\s.*%zmm", body))
        assert not re.search(r"\bv(mul|fn?m)", body)


@pytest.mark.parametrize("kernel", ["distances", "head distances"])
def test_distances_multiply_nothing(kernel):
    text = assembly("skylake-avx512", kernel)
    assert len(re.findall(r"vsubps\s.*%zmm", text)) >= 16
    assert not re.search(r"\b(vmul|vfn?m)", text)
