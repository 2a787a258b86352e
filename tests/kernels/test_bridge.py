"""Kernels behind torch operators: on and off, whole models, and what happens where there is none."""

import gc
import subprocess
import sys

import pytest
import torch
from hf.families import BY_NAME
from torch import nn

import tvm_kernels
from shiftadd_transformers import convert_, make_plan, pack_
from shiftadd_transformers.layers import latent_type
from shiftadd_transformers.operators import shift_linear
from shiftadd_transformers.specs import AdderSpec, BcqSpec, ShiftSpec
from tvm_kernels.bridge import shift as bridge
from tvm_kernels.bridge.operands import Operands

SPECS = {
    "shift": ShiftSpec(activation_bits=8),
    "shift groups": ShiftSpec(terms=2, group_size=16, activation_bits=8),
    "shift float": ShiftSpec(),
    "adder": AdderSpec(),
    "bcq tables": BcqSpec(planes=3, grouping="column", activation_bits=8),
}


def packed_layer(spec, n=24, k=40):
    torch.manual_seed(0)
    return latent_type(spec).from_dense(nn.Linear(k, n), spec).pack()


@pytest.fixture(autouse=True)
def _kernels_are_off_again():
    yield
    tvm_kernels.disable()


def test_kernels_are_off_until_they_are_switched_on(monkeypatch):
    calls = []
    monkeypatch.setattr(bridge._integer_weights, "get", lambda *a: calls.append(a) or pytest.fail("not asked for"))
    packed_layer(SPECS["shift"])(torch.randn(2, 40))
    assert not tvm_kernels.is_enabled()
    assert not calls


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_a_layer_computes_the_same(spec):
    layer, x = packed_layer(spec), torch.randn(2, 3, 40)
    expected = layer(x)
    with tvm_kernels.enabled():
        assert tvm_kernels.is_enabled()
        result = layer(x)
    assert not tvm_kernels.is_enabled()
    if spec == SPECS["shift float"]:
        torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)
    else:
        assert torch.equal(result, expected)


def test_blocks_nest_and_an_error_switches_off():
    with tvm_kernels.enabled(), tvm_kernels.enabled():
        pass
    with pytest.raises(ZeroDivisionError), tvm_kernels.enabled():
        raise ZeroDivisionError
    assert not tvm_kernels.is_enabled()
    tvm_kernels.enable()
    with tvm_kernels.enabled():
        pass
    assert tvm_kernels.is_enabled()
    tvm_kernels.disable()
    tvm_kernels.disable()
    assert not tvm_kernels.is_enabled()


def packed_family(name, spec):
    family = BY_NAME[name]
    model = family.build()
    convert_(model, make_plan(model, [{"role": "attn.*", "op": spec}, {"role": "mlp.*", "op": spec}]))
    pack_(model)
    return family, model.eval()


@pytest.mark.parametrize("name", ["bert-mlm", "vit", "marian", "llama"])
def test_a_model_computes_the_same(name):
    family, model = packed_family(name, SPECS["shift"])
    expected = family.output(model)
    assert tvm_kernels.enable(model) is model
    assert torch.equal(family.output(model), expected)


def test_generation_gives_the_same_tokens():
    family, model = packed_family("marian", SPECS["shift"])
    inputs = family.inputs()
    inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    options = {"max_new_tokens": 8, "num_beams": 3, "do_sample": False}
    expected = model.generate(**inputs, **options)
    with tvm_kernels.enabled():
        assert torch.equal(model.generate(**inputs, **options), expected)


def test_gradients_still_flow():
    layer, x = packed_layer(SPECS["shift"]), torch.randn(3, 40)
    gradients = []
    for context in (torch.enable_grad(), tvm_kernels.enabled()):
        with context:
            leaf = x.clone().requires_grad_()
            layer(leaf).square().sum().backward()
            gradients.append(leaf.grad)
    assert torch.equal(*gradients)


def test_a_compiled_graph_holds_the_operator():
    layer, x = packed_layer(SPECS["shift"]), torch.randn(3, 40)
    expected = layer(x)
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    with tvm_kernels.enabled():
        assert torch.equal(compiled(x), expected)


def test_a_missing_kernel_names_the_modules():
    layer = packed_layer(ShiftSpec()).to(torch.float64)
    with pytest.raises(tvm_kernels.MissingKernelError, match=r"(?s)1 modules have no kernel here.*\n1: .*float32"):
        tvm_kernels.enable(nn.Sequential(nn.ReLU(), layer))
    assert not tvm_kernels.is_enabled()
    with tvm_kernels.enabled(), pytest.raises(tvm_kernels.MissingKernelError, match="float32"):
        layer(torch.randn(1, 40, dtype=torch.float64))


def test_a_weight_changed_in_place_is_laid_out_again():
    layer, x = packed_layer(SPECS["shift"]), torch.randn(2, 40)
    with tvm_kernels.enabled():
        before = layer(x)
        layer.weight_exponent.add_(1)
        layer.bias.data.zero_()
        after = layer(x)
    assert not torch.equal(before, after)
    assert torch.equal(after, layer(x))


def test_weights_made_in_inference_mode():
    with torch.inference_mode():
        layer = packed_layer(SPECS["shift"])
        x = torch.randn(2, 40)
        expected = layer(x)
        with tvm_kernels.enabled():
            assert torch.equal(layer(x), expected)


def test_prepared_weights_die_with_the_weight():
    operands = Operands(lambda tensor: tensor.clone())
    tensor = torch.ones(3)
    assert operands.get((tensor,), ()) is operands.get((tensor,), ())
    assert len(operands._known) == 1
    del tensor
    gc.collect()
    assert not operands._known


def test_threads_are_those_of_torch():
    layer = packed_layer(SPECS["shift"], 256, 256)
    x = torch.randn(40, 256)
    expected = layer(x)
    with tvm_kernels.enabled():
        for threads in (2, 1, 3):
            torch.set_num_threads(threads)
            assert torch.equal(layer(x), expected)
    torch.set_num_threads(1)


def test_several_threads_may_call_at_once():
    from concurrent.futures import ThreadPoolExecutor

    layer = packed_layer(SPECS["shift"], 64, 256)
    inputs = [torch.randn(1, 256) for _ in range(64)]
    expected = [layer(x) for x in inputs]
    with tvm_kernels.enabled(), ThreadPoolExecutor(4) as pool:
        results = list(pool.map(layer, inputs))
    assert all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))


def test_a_typo_in_a_target_proposes_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'haswell'"):
        tvm_kernels.target("haswel")


def test_compiled_kernels_run_without_the_compiler():
    """A second process finds its kernels on disk and never imports TVM's compiler."""
    program = (
        "import sys, torch, tvm_kernels\n"
        "from shiftadd_transformers.operators import shift_linear\n"
        "torch.set_num_threads(1)\n"
        "with tvm_kernels.enabled():\n"
        "    y = shift_linear(torch.ones(1, 8), torch.full((4, 4), 17, dtype=torch.uint8),"
        " torch.zeros(4, 1, dtype=torch.int8), activation_bits=8)\n"
        "print(y.tolist(), 'tvm' in sys.modules)\n"
    )
    for _ in range(2):
        output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert output == "[[8.0, 8.0, 8.0, 8.0]] False\n"
    plain = shift_linear(
        torch.ones(1, 8), torch.full((4, 4), 17, dtype=torch.uint8), torch.zeros(4, 1, dtype=torch.int8)
    )
    assert plain.tolist() == [[8.0] * 4]
