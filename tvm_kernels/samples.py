"""Which layers and attentions are measured, where no trained model is at hand?

Time does not depend on the values of weights, so packed layers are filled with codes that nothing was fitted for.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shiftadd_transformers.convert import pack_
from shiftadd_transformers.cost import AttentionShape
from shiftadd_transformers.layers import packed_type
from shiftadd_transformers.layers.attention import Visibility, core_type
from shiftadd_transformers.specs import (
    AdderAttentionSpec,
    AdderSpec,
    BcqSpec,
    BinaryLinearSpec,
    DenseSpec,
    MixerSpec,
    ShiftAddSpec,
    ShiftSpec,
    SoftmaxSpec,
    Spec,
)

SPECS: tuple[Spec, ...] = (
    DenseSpec(),
    ShiftSpec(activation_bits=8),
    ShiftSpec(),
    AdderSpec(),
    AdderSpec(bits=None),
    ShiftAddSpec(),
    BcqSpec(planes=2, grouping="column", activation_bits=8),
    BcqSpec(planes=3, grouping="column", activation_bits=8),
    BcqSpec(planes=3, grouping="row"),
    BcqSpec(planes=3, grouping="block"),
)
"""One way of computing per kernel, and the ordinary layer beside them."""

CORES: tuple[Spec, ...] = (
    SoftmaxSpec(),
    BinaryLinearSpec(),
    BinaryLinearSpec(form="quadratic"),
    AdderAttentionSpec(),
    AdderAttentionSpec(bits=8),
    MixerSpec(),
    MixerSpec(op="add"),
    MixerSpec(op="shift_add"),
    MixerSpec(attention=True),
)
"""One attention per way of computing, and the ordinary one beside them."""


def sample_layer(spec: Spec, k: int, n: int, bias: bool = True) -> nn.Module:
    """A layer of ``k`` inputs and ``n`` outputs in the state that is shipped."""
    if isinstance(spec, DenseSpec):
        return nn.Linear(k, n, bias).requires_grad_(False)
    packed = packed_type(spec)(spec, k, n, bias).requires_grad_(False)
    for tensor in packed.parameters():
        if tensor.dtype == torch.uint8:
            tensor.random_(256)
        elif tensor.dtype == torch.int8:  # exponents among them, of which small ones keep results finite
            tensor.random_(-8, 1)
        else:
            tensor.normal_(0, 0.02)
    return packed


def sample_core(spec: Spec, shape: AttentionShape) -> Callable[[], Tensor]:
    """A call of an attention between its projections, in the state that is shipped.

    Heads come and go as a model has them, interleaved token by token. Where a core has no kernel, as softmax, PyTorch
    computes it.

    Args:
        spec: how it computes.
        shape: of the call.

    Raises:
        ValueError: such a core cannot stand in such an attention.
    """
    query, key, value = (
        torch.randn(shape.batch, length, shape.heads, shape.head_dim).transpose(1, 2)
        for length in (shape.targets, shape.sources, shape.sources)
    )
    if isinstance(spec, SoftmaxSpec):
        return lambda: _joined(F.scaled_dot_product_attention(query, key, value, is_causal=shape.causal))
    options = {"causal": shape.causal, "cross": shape.cross}
    core = pack_(core_type(spec)(spec, shape.heads, shape.head_dim, **options)).eval().requires_grad_(False)
    visibility, scaling = Visibility(causal=shape.causal), shape.head_dim**-0.5
    return lambda: _joined(core(query, key, value, visibility, scaling))


def _joined(heads: Tensor) -> Tensor:
    """`[B, H, T, E]` as `[B, T, H·E]`, for the output projection."""
    return heads.transpose(1, 2).flatten(2).contiguous()
