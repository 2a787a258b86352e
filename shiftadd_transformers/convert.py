"""Carrying out a plan: the only code that swaps modules.

    dense ──convert_──► latent ──pack_──► packed
      ◄─────revert_──────┘  ◄──unpack_──────┘

All four work in place, module by module, and leave a model whole if they refuse.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from torch import nn

from .extents import Cuts
from .layers import (
    LatentModule,
    OperatorModule,
    PackedModule,
    dense_weight,
    is_dense,
    latent_type,
    packed_type,
)
from .layers.attention import AttentionCore, core_type, head_shape, is_cross_attention, sliding_window
from .layers.base import twin
from .layers.projections import NarrowProjection
from .plan import Entry, Plan, dense_at, resolve
from .planning import make_plan
from .rules import Rule
from .sites import matrix_shape, query_key_projections, separate_projections, sites
from .slimming import shorten_, smaller_layers
from .specs import Spec, nearest

Model = TypeVar("Model", bound=nn.Module)
Rules = Sequence[Rule | Mapping[str, Any]]
Maker = Callable[[str, nn.Module, Any], nn.Module]
"""Name, dense layer and spec to the layer that takes its place."""


def from_dense(name: str, dense: nn.Module, spec: Spec) -> nn.Module:
    """The latent layer that starts from a dense one."""
    return latent_type(spec).from_dense(dense, spec)


def convert_(model: Model, plan: Plan | Rules, make: Maker = from_dense) -> Model:
    """Replace dense layers by latent operator layers that start from their values, and give attentions their cores.

    Where the plan says smaller sizes, the leading part of the dense model is what is converted.

    Args:
        model: Changed in place. What is converted already stays as it is, so a model may be converted in stages.
        plan: A plan made for this model, or rules to make one from.
        make: Makes the layer for a name, a dense layer and a spec, if it is not to start from the dense one.

    Returns:
        The same model.

    Raises:
        ValueError: The plan is for another model, or a weight holds NaN. The model is then unchanged.
    """
    if not isinstance(plan, Plan):
        plan = make_plan(model, plan)
    cuts = Cuts.of(model, plan.sizes)
    entries = dict(check_plan(plan, model, cuts).values())
    return _carry_out(model, entries, make, cuts)


def skeleton_(model: Model, plan: Plan, state: str) -> Model:
    """Replace dense layers by empty operator layers, to be filled from a checkpoint in that state.

    Modules that the model lacks are passed over: a checkpoint with a head also loads into the model without one.
    """
    kind = latent_type if state == "latent" else packed_type
    cuts = Cuts.of(model, plan.sizes, from_checkpoint=True)
    entries = dict(resolve(plan, model, from_checkpoint=True).values())
    _carry_out(model, entries, lambda _, dense, spec: kind(spec).skeleton(dense, spec), cuts)
    if state == "packed":  # layers inside cores
        _swap_all(model, _names(model, LatentModule), lambda _, layer: twin(layer, packed_type(layer.spec)))
    return model


def pack_(model: Model) -> Model:
    """Replace latent layers by packed ones with the same function.

    Raises:
        ValueError: Training left NaN in a layer. The model is then unchanged.
    """
    return _swap_all(model, _names(model, LatentModule), lambda _, layer: layer.require_finite().pack())


def unpack_(model: Model) -> Model:
    """Replace packed layers by latent ones with the same function, to train on."""
    return _swap_all(model, _names(model, PackedModule), lambda _, layer: layer.unpack())


def revert_(model: Model, *, approximate: bool = False) -> Model:
    """Replace operator layers by dense layers of the original classes, holding the effective weights.

    Args:
        model: Changed in place.
        approximate: Also revert layers that no dense layer equals (adder, shift-add), to the nearest dense one, and
            attentions with a core of their own, to softmax.

    Raises:
        ValueError: There are such layers and `approximate` is False; or a token mixer has left projections out.
    """
    cores = _names(model, AttentionCore)
    layers = [name for name in _names(model, OperatorModule) if not name.startswith(tuple(f"{c}." for c in cores))]
    others = [*cores, *(name for name in layers if not model.get_submodule(name).is_linear)]
    if others and not approximate:
        raise ValueError(
            f"no dense layer computes what {', '.join(others[:3])} compute ({len(others)} such layers); "
            "revert_(model, approximate=True) takes the nearest one"
        )
    narrowed = _names(model, NarrowProjection)
    if narrowed:
        raise ValueError(f"the weights of {narrowed[0]} were left out when a token mixer came; load the dense model")
    _swap_all(model, layers, lambda _, layer: layer.to_dense())
    for name in cores:
        attention, _, own = name.rpartition(".")
        delattr(model.get_submodule(attention), own)
    return model


def check_plan(plan: Plan, model: nn.Module, cuts: Cuts) -> dict[str, tuple[str, Any]]:
    """Resolve a plan's names in a model and insist that every one will be there, in the planned shape.

    Raises:
        ValueError: Says which module does not fit and what is there instead.
    """
    found = resolve(plan, model)
    for planned in plan.converted:
        if planned not in found:
            known = [site.name for site in sites(model) if plan.entries[planned].spec.place == site.place]
            raise ValueError(
                f"the plan (for {plan.model or 'an unnamed model'}) converts {planned!r}, which "
                f"{type(model).__name__} does not have; {nearest(planned, known)}"
            )
        name, entry = found[planned]
        if cuts.lacks(name):
            raise ValueError(f"the plan converts {name}, and leaves out the layer that it is in")
        _check_entry(name, entry, dense_at(model, name), cuts)
    return found


def _check_entry(name: str, entry: Entry, module: nn.Module, cuts: Cuts) -> None:
    if isinstance(module, OperatorModule):
        raise ValueError(f"{name} is converted already ({module.spec}); revert_(model) first")
    core = getattr(module, "core", None)
    if isinstance(core, AttentionCore):
        raise ValueError(f"{name} has a core already ({core.spec}); revert_(model, approximate=True) first")
    projections = query_key_projections(name, module)
    if entry.spec.place == "attention":
        if not projections:
            raise ValueError(f"{name} is a {type(module).__name__}, not an attention")
        there, what = head_shape(module, module.get_submodule(projections[0])), "(H, E)"
    else:
        if not is_dense(module):
            raise ValueError(f"{name} is a {type(module).__name__}, not a dense layer")
        there, what = matrix_shape(module), "(N, K)"
    there = cuts.shapes_after({name: there})[name]
    if there != entry.shape:
        raise ValueError(f"the plan expects {name} to be {entry.shape} {what}, the model has {there}")


def _carry_out(model: Model, entries: Mapping[str, Entry], make: Maker, cuts: Cuts) -> Model:
    """Build all cores and layers before the first is put in place: a late refusal must leave the model whole."""
    cores = {name: make_core(name, model, entry) for name, entry in entries.items() if entry.spec.place == "attention"}
    built = smaller_layers(model, cuts)
    for name, core in cores.items():
        built |= _narrowed(name, model.get_submodule(name), core, built)
    for name, entry in entries.items():
        if name not in cores:
            dense = dense_at(model, name)
            projection = built.get(dense)
            if isinstance(projection, NarrowProjection):
                projection.linear = _named(name, make, name, projection.linear, entry.spec)
            else:
                built[dense] = _named(name, make, name, projection or dense, entry.spec)
    _put(model, built)
    shorten_(model, cuts)
    for name, core in cores.items():
        model.get_submodule(name).core = core
    return model


def make_core(name: str, model: nn.Module, entry: Entry) -> AttentionCore:
    """The core of an entry for the attention of that name, with its first values.

    Raises:
        ValueError: It does not fit the attention.
    """
    attention = model.get_submodule(name)
    weight = next(attention.parameters())
    causal, cross = bool(getattr(attention, "is_causal", False)), is_cross_attention(name)
    options = {"cross": cross, "causal": causal and not cross, "reach": sliding_window(attention)}
    core = _named(name, core_type(entry.spec), entry.spec, *entry.shape, device=weight.device, **options)
    return core.to(weight.dtype).train(attention.training)


def _narrowed(
    name: str, attention: nn.Module, core: AttentionCore, smaller: Mapping[nn.Module, nn.Module]
) -> dict[nn.Module, nn.Module]:
    """Projections of queries and keys that a core reads in part or not at all."""
    if core.query_heads == core.heads:
        return {}
    narrow: dict[nn.Module, nn.Module] = {}
    for child in separate_projections(name, attention):
        dense = attention.get_submodule(child)
        if not is_dense(dense):
            raise ValueError(f"{name}.{child} is converted already; a token mixer has to come before, or with it")
        whole = smaller.get(dense, dense)
        narrow[dense] = NarrowProjection.of(whole, outputs_read(core, dense_weight(whole).shape[0]))
    return narrow


def outputs_read(core: AttentionCore, outputs: int) -> int:
    """How many leading outputs of a query or key projection a core reads."""
    heads = outputs // core.head_dim  # keys may have fewer heads than queries
    return -(-core.query_heads * heads // core.heads) * core.head_dim


def _named(name: str, make: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call, and let an error say which module it is about."""
    try:
        return make(*args, **kwargs)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _names(model: nn.Module, kind: type[nn.Module]) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, kind)]


def _swap_all(model: Model, names: Iterable[str], replace: Callable[[str, Any], nn.Module]) -> Model:
    """Build every replacement before the first is put in place."""
    modules = {name: model.get_submodule(name) for name in names}
    return _put(model, {module: _named(name, replace, name, module) for name, module in modules.items()})


def _put(model: Model, built: Mapping[nn.Module, nn.Module]) -> Model:
    # A module that stands in two places is one module afterwards too.
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if module in built:
            model.set_submodule(name, built[module])
    return model
