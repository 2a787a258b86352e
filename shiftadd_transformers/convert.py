"""Carrying out a plan: the only code that swaps modules.

    dense ──convert_──► latent ──pack_──► packed
      ◄─────revert_──────┘  ◄──unpack_──────┘

All four work in place, module by module, and leave a model whole if they refuse.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from torch import nn

from .layers import (
    LatentModule,
    OperatorModule,
    PackedModule,
    dense_weight,
    is_dense,
    latent_type,
    packed_type,
)
from .plan import Plan, make_plan, resolve
from .rules import Rule
from .specs import nearest

Model = TypeVar("Model", bound=nn.Module)
Rules = Sequence[Rule | Mapping[str, Any]]


def convert_(model: Model, plan: Plan | Rules) -> Model:
    """Replace dense layers by latent operator layers that start from their values.

    Args:
        model: Changed in place.
        plan: A plan made for this model, or rules to make one from.

    Returns:
        The same model.

    Raises:
        ValueError: The plan is for another model, or a weight holds NaN. The model is then unchanged.
    """
    if not isinstance(plan, Plan):
        plan = make_plan(model, plan)
    specs = {name: entry.spec for name, entry in check_plan(plan, model).values()}
    return _swap_all(model, specs, lambda name, dense: latent_type(specs[name]).from_dense(dense, specs[name]))


def skeleton_(model: Model, plan: Plan, state: str) -> Model:
    """Replace dense layers by empty operator layers, to be filled from a checkpoint in that state.

    Modules that the model lacks are passed over: a checkpoint with a head also loads into the model without one.
    """
    kind = latent_type if state == "latent" else packed_type
    for name, entry in resolve(plan, model, from_checkpoint=True).values():
        dense = model.get_submodule(name)
        model.set_submodule(name, kind(entry.spec).skeleton(dense, entry.spec))
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
        approximate: Also revert layers that no dense layer equals (adder, shift-add), to the nearest dense one.

    Raises:
        ValueError: There are such layers and `approximate` is False.
    """
    others = [n for n, m in model.named_modules() if isinstance(m, OperatorModule) and not m.is_linear]
    if others and not approximate:
        raise ValueError(
            f"no dense layer computes what {', '.join(others[:3])} compute ({len(others)} such layers); "
            "revert_(model, approximate=True) takes the nearest one"
        )
    return _swap_all(model, _names(model, OperatorModule), lambda _, layer: layer.to_dense())


def check_plan(plan: Plan, model: nn.Module) -> dict[str, tuple[str, Any]]:
    """Resolve a plan's names in a model and insist that every one is a dense layer of the planned shape.

    Raises:
        ValueError: Says which module does not fit and what is there instead.
    """
    found, modules = resolve(plan, model), dict(model.named_modules())
    for planned in plan.converted:
        if planned not in found:
            known = [name for name, module in modules.items() if is_dense(module)]
            raise ValueError(
                f"the plan (for {plan.model or 'an unnamed model'}) converts {planned!r}, which "
                f"{type(model).__name__} does not have; {nearest(planned, known)}"
            )
        name, entry = found[planned]
        module = modules[name]
        if isinstance(module, OperatorModule):
            raise ValueError(f"{name} is converted already ({module.spec}); revert_(model) first")
        if not is_dense(module):
            raise ValueError(f"{name} is a {type(module).__name__}, not a dense layer")
        if tuple(dense_weight(module).shape) != entry.shape:
            shape = tuple(dense_weight(module).shape)
            raise ValueError(f"the plan expects {name} to be {entry.shape} (N, K), the model has {shape}")
    return found


def _names(model: nn.Module, kind: type[nn.Module]) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, kind)]


def _swap_all(model: Model, names: Iterable[str], replace: Callable[[str, Any], nn.Module]) -> Model:
    """Build every replacement before the first is put in place: a late refusal must leave the model whole."""
    built: dict[nn.Module, nn.Module] = {}
    for name in names:
        module = model.get_submodule(name)
        try:
            built[module] = replace(name, module)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    # A module that stands in two places is one module afterwards too.
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if module in built:
            model.set_submodule(name, built[module])
    return model
