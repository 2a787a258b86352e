"""How does a model become smaller? The leading rows and columns of its dense layers stay, and the leading layers."""

from __future__ import annotations

from torch import nn

from .extents import Cuts
from .layers.attention import set_heads_
from .layers.base import dense_bias, dense_weight, make_dense
from .sites import matrix_shape


def smaller_layers(model: nn.Module, cuts: Cuts) -> dict[nn.Module, nn.Module]:
    """What takes the place of each dense layer that loses rows or columns.

    Args:
        model: Dense where something becomes smaller; not changed.
        cuts: Made for this model.
    """
    touched = {name for extent in cuts.extents.values() for name in (*extent.rows, *extent.columns)}
    shapes = {name: matrix_shape(model.get_submodule(name)) for name in sorted(touched)}
    left = cuts.shapes_after(shapes)
    return {model.get_submodule(name): leading_part(model.get_submodule(name), *shape) for name, shape in left.items()}


def leading_part(dense: nn.Module, n: int, k: int) -> nn.Module:
    """A dense layer with the first `n` rows and `k` columns of another one.

    >>> leading_part(nn.Linear(4, 6), 3, 2)
    Linear(in_features=2, out_features=3, bias=True)
    """
    weight, bias = dense_weight(dense), dense_bias(dense)
    own = None if bias is None else nn.Parameter(bias.detach()[:n].clone(), requires_grad=bias.requires_grad)
    smaller = make_dense(type(dense), weight[:n, :k], own).train(dense.training)
    smaller.get_parameter("weight").requires_grad_(dense.get_parameter("weight").requires_grad)
    return smaller


def shorten_(model: nn.Module, cuts: Cuts) -> None:
    """Leave out the layers behind the leading ones, and let attentions know how many heads they have left."""
    for name, heads in cuts.of_kind("heads").items():
        set_heads_(model.get_submodule(name), heads)
    for name, depth in cuts.of_kind("depth").items():
        stack = model.get_submodule(name)
        assert isinstance(stack, nn.ModuleList)
        del stack[depth:]
