"""How does one set of tensors serve layers of several sizes? A smaller layer computes with the leading part of each.

Whatever a layer keeps beside its matrix (bias, scales, offsets, a router, statistics per head) is cut alike, so that
the smaller layer is what an extracted model gets.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from typing import Any

from torch import Tensor, nn

from shiftadd_transformers.layers import latent_type
from shiftadd_transformers.layers.attention import AttentionCore, core_type
from shiftadd_transformers.specs import Spec

_SIZES = ("in_features", "out_features", "heads")


def leading_part(module: Any, like: nn.Module, lent: Mapping[str, Tensor] | None = None) -> Any:
    """A module that computes with the leading part of another one's tensors.

    The tensors are views: training it trains the other one, and what it writes into buffers is written there.

    Args:
        module: The larger one.
        like: One of the same kind that has the smaller shapes; its values do not matter.
        lent: Tensors that take the place of parameters which the larger one lacks.
    """
    part = copy.copy(module)
    sizes = {name: like.__dict__[name] for name in _SIZES if name in like.__dict__}
    part.__dict__.update(
        sizes,
        _parameters={name: _as_in(like._parameters, name, own) for name, own in module._parameters.items()}
        | dict(lent or {}),
        _buffers={name: _as_in(like._buffers, name, own) for name, own in module._buffers.items()},
        _modules={name: leading_part(own, like.get_submodule(name)) for name, own in module._modules.items()},
    )
    return part


def leading(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """The leading part of a tensor; itself if that is all of it, as a part costs its gradient a copy."""
    return tensor if tuple(tensor.shape) == tuple(shape) else tensor[tuple(map(slice, shape))]


def _as_in(held: Mapping[str, Tensor | None], name: str, tensor: Tensor | None) -> Tensor | None:
    """The leading part with the shape of what another module holds under a name."""
    like = held[name]
    return tensor if tensor is None or like is None else leading(tensor, like.shape)


@lru_cache(maxsize=512)
def empty_layer(spec: Spec, n: int, k: int, bias: bool) -> nn.Module:
    """A linear layer `[N, K]` that computes by a spec, without memory."""
    dense = nn.Linear(k, n, bias, device="meta")
    return latent_type(spec).skeleton(dense, spec) if spec.changes else dense


def empty_core(core: AttentionCore, heads: int) -> nn.Module:
    """A core of the same kind with another number of heads, without memory."""
    return _empty_core(core.spec, heads, core.head_dim, core.cross, core.causal, core.reach)


@lru_cache(maxsize=512)
def _empty_core(spec: Spec, heads: int, width: int, cross: bool, causal: bool, reach: int | None) -> nn.Module:
    options = {"cross": cross, "causal": causal, "reach": reach}
    core: nn.Module = core_type(spec)(spec, heads, width, device="meta", **options)
    return core


class LeadingLayers(nn.ModuleList):
    """A stack whose leading layers alone are run; all of them are trained, moved and saved.

    Attributes:
        depth: How many; None for all.

    >>> stack = LeadingLayers([nn.Linear(1, 1), nn.Linear(1, 1)])
    >>> stack.depth = 1
    >>> len(stack), len(list(stack)), len(stack[:2]), len(list(stack.parameters()))
    (1, 1, 1, 4)
    """

    depth: int | None = None

    def __len__(self) -> int:
        return len(self._modules) if self.depth is None else self.depth

    def __iter__(self) -> Iterator[Any]:
        return islice(iter(self._modules.values()), len(self))

    def __getitem__(self, index: Any) -> Any:
        layers = list(self)[index]
        return nn.ModuleList(layers) if isinstance(index, slice) else layers

    def whole(self) -> nn.ModuleList:
        """An ordinary stack with all layers."""
        return nn.ModuleList(module for module in self._modules.values() if module is not None)
