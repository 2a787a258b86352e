"""Which layers are measured, where no trained model is at hand?

Time does not depend on the values of weights, so packed layers are filled with codes that nothing was fitted for.
"""

from __future__ import annotations

import torch
from torch import nn

from shiftadd_transformers.layers import packed_type
from shiftadd_transformers.specs import AdderSpec, BcqSpec, DenseSpec, ShiftAddSpec, ShiftSpec, Spec

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
