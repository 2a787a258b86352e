"""What is left of a projection whose result is used in part, or not at all?

A token mixer needs no queries and keys, and one that mixes in half of the heads needs half of them. The attention
module around still calls its projections and shapes what they return.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .base import dense_bias, dense_weight, make_dense


class NarrowProjection(nn.Module):
    """The first rows of a dense layer; zeros stand where the others were.

    Attributes:
        linear: The layer that is left, or None.
        out_features: N, zeros included.
    """

    linear: nn.Module | None

    def __init__(self, linear: nn.Module | None, out_features: int) -> None:
        super().__init__()
        self.linear = linear
        self.out_features = out_features

    @classmethod
    def of(cls, dense: nn.Module, kept: int) -> NarrowProjection:
        """Keep the first `kept` outputs of a dense layer.

        Args:
            dense: An ordinary linear layer `[N, K]`.
            kept: Rows that stay, 0 to N.
        """
        weight, bias = dense_weight(dense), dense_bias(dense)
        if not kept:
            return cls(None, weight.shape[0])
        rest = None if bias is None else nn.Parameter(bias.detach()[:kept].clone())
        return cls(make_dense(type(dense), weight[:kept], rest).train(dense.training), weight.shape[0])

    def forward(self, x: Tensor) -> Tensor:
        """`x [..., K]` to `[..., N]`."""
        if self.linear is None:
            return x.new_zeros(()).expand(*x.shape[:-1], self.out_features)
        y: Tensor = self.linear(x)
        return F.pad(y, (0, self.out_features - y.shape[-1]))

    def extra_repr(self) -> str:
        """Shown by `print(model)`."""
        return f"out_features={self.out_features}"
