"""What would a user call instead? Products of PyTorch, ONNX Runtime, OpenVINO and torchao.

Every baseline gets its activations in the dtype that it takes, and its weights packed the way that it wants; neither
is timed. What it does with float32 activations by itself is: all of those that quantise activations do so in the call.
Weights are random, so nothing here speaks about accuracy.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from shiftadd_transformers.operators import pack_codes

from .shape import Shape

Call = Callable[[], Any]

_GROUP = 128
"""Weights of a row that share a scale, where there are groups."""


@dataclass(frozen=True)
class Baseline:
    """One way to compute a product.

    Args:
        name: what tables call it.
        bits: bits of memory that a call reads per weight.
        calls: given a shape, a number of copies and of threads, one call per copy of the weight, each over bytes of
            its own. The number of threads is for those that do not follow :func:`torch.set_num_threads`. Raises
            ImportError where a package is not installed.
    """

    name: str
    bits: int
    calls: Callable[[Shape, int, int], list[Call]]


def torch_dense(dtype: torch.dtype) -> Callable[[Shape, int, int], list[Call]]:
    """``F.linear`` in one dtype."""

    def calls(shape: Shape, copies: int, _threads: int) -> list[Call]:
        x, weight = (tensor.to(dtype) for tensor in _operands(shape))
        return [partial(F.linear, x, weight.clone()) for _ in range(copies)]

    return calls


def torch_dynamic_int8(shape: Shape, copies: int, _threads: int) -> list[Call]:
    """What modules made by ``torch.ao.quantization.quantize_dynamic`` call."""
    x, weight = _operands(shape)
    scale = weight.abs().amax(1).double() / 127
    with warnings.catch_warnings():  # quantised tensors are deprecated, the product that takes them is not
        warnings.simplefilter("ignore", UserWarning)
        codes = torch.quantize_per_channel(weight, scale, torch.zeros(shape.n, dtype=torch.int64), 0, torch.qint8)
        packed = [torch.ops.quantized.linear_prepack(codes, None) for _ in range(copies)]
    return [partial(torch.ops.quantized.linear_dynamic, x, each, reduce_range=False) for each in packed]


def torch_int4(shape: Shape, copies: int, _threads: int) -> list[Call]:
    """PyTorch's 4-bit product, bfloat16 in and out."""
    x, weight = _operands(shape)
    codes, scale = _codes(weight, bits=4)
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes.to(torch.int32), 1)
    scale_and_zero = torch.stack([scale, torch.zeros_like(scale)], -1).transpose(0, 1).bfloat16().contiguous()
    product, x = torch.ops.aten._weight_int4pack_mm_for_cpu, x.bfloat16()
    group = shape.k // scale.shape[1]
    return [partial(product, x, packed.clone(), group, scale_and_zero) for _ in range(copies)]


def torch_l1(shape: Shape, copies: int, _threads: int) -> list[Call]:
    """The fastest L1 distance of PyTorch."""
    x, weight = _operands(shape)
    return [partial(torch.cdist, x, weight.clone(), p=1.0) for _ in range(copies)]


def torch_bmm(shape: Shape, copies: int, _threads: int) -> list[Call]:
    """A product of float matrices, of which one holds signs."""
    x = torch.randn(shape.batch, shape.m, shape.k)
    signs = torch.randn(shape.batch, shape.k, shape.n).sign()
    return [partial(torch.bmm, x, signs.clone()) for _ in range(copies)]


def onnxruntime_bits(bits: int) -> Callable[[Shape, int, int], list[Call]]:
    """ONNX Runtime's MatMulNBits with int8 arithmetic (accuracy level 4), one session per copy."""

    def calls(shape: Shape, copies: int, threads: int) -> list[Call]:
        import onnxruntime

        x, weight = _operands(shape)
        model, feed = _onnx_model(*_codes(weight, bits), bits), {"x": x.numpy()}
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # would slow all others
        open_session = partial(onnxruntime.InferenceSession, model, options, providers=["CPUExecutionProvider"])
        return [partial(open_session().run, None, feed) for _ in range(copies)]

    return calls


def openvino_int4(shape: Shape, copies: int, threads: int) -> list[Call]:
    """OpenVINO with 4-bit weights and 8-bit activations, quantised in the call; one compiled model per copy."""
    import openvino

    x, weight = _operands(shape)
    codes, scale = _codes(weight, bits=4)
    core = openvino.Core()
    settings = {
        "INFERENCE_NUM_THREADS": str(threads),
        "PERFORMANCE_HINT": "LATENCY",
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": str(_GROUP),
    }

    def call() -> Call:
        # Constants are views of this memory, which the call must keep.
        packed = pack_codes(codes ^ 8, 4).numpy()
        request = core.compile_model(_openvino_model(packed, scale), "CPU", settings).create_infer_request()
        request.set_input_tensor(openvino.Tensor(x.numpy()))

        def infer(_keeps: object = packed) -> Any:
            request.infer()
            return request.get_output_tensor().data

        return infer

    return [call() for _ in range(copies)]


def torchao_int8(shape: Shape, copies: int, _threads: int) -> list[Call]:
    """Weights and activations in 8 bits by torchao, compiled: without that it is far slower."""
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    x, weight = _operands(shape)
    layer = torch.nn.Linear(shape.k, shape.n, bias=False)
    layer.weight.data = weight
    quantize_(layer, Int8DynamicActivationInt8WeightConfig())
    torch.compiler.reset()  # so that shapes of earlier contests do not count against the limit of recompilations
    linear = torch.compile(F.linear, dynamic=False)
    return [partial(linear, x, layer.weight.detach().clone()) for _ in range(copies)]


def _operands(shape: Shape) -> tuple[Tensor, Tensor]:
    return torch.randn(shape.m, shape.k), torch.randn(shape.n, shape.k)


def _codes(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Unsigned codes ``[N, K]`` around ``2**(bits - 1)``, and scales ``[N, G]``."""
    middle, group = 1 << (bits - 1), min(_GROUP, weight.shape[1])
    grouped = weight.unflatten(1, (-1, group))
    scale = grouped.abs().amax(-1) / middle
    codes = (grouped / scale.unsqueeze(-1)).round() + middle
    return codes.clamp_(0, 2 * middle - 1).flatten(1).to(torch.uint8), scale


def _onnx_model(codes: Tensor, scale: Tensor, bits: int) -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    (n, k), blocks = codes.shape, scale.shape[1]
    packed = pack_codes(codes, bits).view(n, blocks, -1)
    attributes = {"K": k, "N": n, "bits": bits, "block_size": k // blocks, "accuracy_level": 4}
    node = helper.make_node("MatMulNBits", ["x", "codes", "scale"], ["y"], domain="com.microsoft", **attributes)
    graph = helper.make_graph(
        [node],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["m", k])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["m", n])],
        [
            numpy_helper.from_array(packed.numpy(), "codes"),
            numpy_helper.from_array(scale.flatten().numpy(), "scale"),
        ],
    )
    versions = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=versions, ir_version=10).SerializeToString()


def _openvino_model(packed: Any, scale: Tensor) -> Any:
    """Two's complement nibbles, widened and scaled in the graph, a form that OpenVINO knows and never executes."""
    import openvino
    from openvino import opset13 as op

    n, groups = scale.shape
    k = 2 * packed.shape[1]
    nibbles = openvino.Tensor(packed, openvino.Shape([n, groups, k // groups]), openvino.Type.i4)
    wide = op.convert(openvino.op.Constant(nibbles), "f16")
    scaled = op.multiply(wide, op.constant(scale.unsqueeze(-1).half().numpy()))
    weight = op.convert(op.reshape(scaled, op.constant([n, k]), special_zero=False), "f32")
    x = op.parameter([-1, k], openvino.Type.f32)
    return openvino.Model([op.result(op.matmul(x, weight, transpose_a=False, transpose_b=True))], [x])


FLOAT32 = Baseline("torch float32", 32, torch_dense(torch.float32))
INT8 = Baseline("torch dynamic int8", 8, torch_dynamic_int8)

LINEAR = (
    FLOAT32,
    Baseline("torch bfloat16", 16, torch_dense(torch.bfloat16)),
    INT8,
    Baseline("torch int4pack", 4, torch_int4),
    Baseline("ONNX Runtime 4-bit", 4, onnxruntime_bits(4)),
    Baseline("ONNX Runtime 2-bit", 2, onnxruntime_bits(2)),
    Baseline("OpenVINO int4", 4, openvino_int4),
    Baseline("torchao int8, compiled", 8, torchao_int8),
)
"""For layers that multiply, or replace multiplications."""

L1 = (Baseline("torch.cdist(p=1)", 32, torch_l1), FLOAT32, INT8)
"""For the adder: the same distance, and the products that an ordinary layer would compute."""

MATADD = (Baseline("torch.bmm float32", 32, torch_bmm),)
"""For products of activations."""
