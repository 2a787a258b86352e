"""What does a plan cost? Every choice at every site measured once; a plan's cost is then a sum.

A count names the module of everything that it finds, so a few forwards, each with another choice everywhere, measure
all choices of all sites. What a site costs depends on the plan in two more ways: an attention core may read half of the
queries and keys, or none, and sizes may be smaller. So the table has a row per site, spec, share and shape. What is
between the sites of a layer has rows of its own, as smaller layers have less of it and left-out ones none.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache, reduce
from itertools import product
from operator import add

from torch import nn

from shiftadd_transformers.extents import Cuts
from shiftadd_transformers.plan import Plan
from shiftadd_transformers.sites import position
from shiftadd_transformers.specs import DenseSpec, Spec

from .decisions import Decision, SizeDecision, SpecDecision
from .resolve import is_attention, query_share
from .space import Space
from .work import REST, Inputs, Work, count_parts

Key = tuple[str, Spec, float, tuple[int, ...]]
"""A site, what it became, the share of it that the attention around reads, and its shape.

Or a layer as far as it is no site, with the sizes in it."""

Price = Callable[[Work], float]
"""A number that adds up over the parts of a model."""


class CostTable:
    """Costs of a space's plans as sums over sites.

    Args:
        space: Whose plans.
        works: Per site, spec, share and shape.
    """

    def __init__(self, space: Space, works: Mapping[Key, Work]) -> None:
        self.space, self.works = space, dict(works)

    def priced(self, price: Price) -> Callable[[Plan], float]:
        """A function from plans to what they cost by a price.

        The price is asked once per row of the table, here: what it cannot price is an error before a search begins.
        """
        prices = {key: price(work) for key, work in self.works.items()}

        def cost(plan: Plan) -> float:
            return sum(prices[key] for key in self._known(plan))

        return cost

    def work(self, plan: Plan) -> Work:
        """All that a plan computes and stores."""
        return reduce(add, (self.works[key] for key in self._known(plan)))

    def _known(self, plan: Plan) -> list[Key]:
        keys = keys_of(self.space, plan)
        for key in keys:
            if key not in self.works:
                raise ValueError(
                    f"the cost of {key[1]} at {key[0]} was not measured: the space does not offer it there"
                    + (f" with sizes {key[3]}" if plan.sizes else "")
                )
        return keys


class WholeCosts:
    """Costs of plans by counting a converted model for each: slow, and right where sums are not.

    Args:
        space: Whose plans.
        model: Dense; not changed.
        inputs: Keyword inputs of the forward that is counted.
    """

    def __init__(self, space: Space, model: nn.Module, inputs: Inputs) -> None:
        self.space, self._model, self._inputs = space, model, dict(inputs)
        self._counted = lru_cache(maxsize=64)(self._count)

    def priced(self, price: Price) -> Callable[[Plan], float]:
        """A function from plans to what they cost by a price."""
        return lambda plan: price(self.work(plan))

    def work(self, plan: Plan) -> Work:
        """All that a plan computes and stores."""
        return self._counted(plan.to_json())

    def _count(self, plan: str) -> Work:
        return reduce(add, count_parts(self._model, Plan.from_json(plan), self._inputs, places_of(self.space)).values())


Costs = CostTable | WholeCosts


def measure_costs(space: Space, model: nn.Module, inputs: Inputs, *, checks: int = 2) -> Costs:
    """Measure what a space's plans cost, as packed models.

    Args:
        space: Whose plans.
        model: The dense model that the space is for; not changed.
        inputs: Keyword inputs of the forward that is counted; their lengths and sizes matter, their values do not.
        checks: Random candidates that are counted beside those that the table needs, to compare with it; one in
            which neighbouring decisions differ always is.

    Returns:
        A table of sums; or, with a warning, costs by counting each plan whole, where sums would be wrong because a
        choice at one site changes what another one costs.

    Raises:
        ValueError: A choice cannot be converted at a site.
    """
    works: dict[Key, Work] = {}
    rng = random.Random(0)
    missing = (plan for plan in _rounds(space) if any(key not in works for key in keys_of(space, plan)))
    compared = (space.to_plan(space.sample(rng)) for _ in range(checks))
    for plans in (missing, [_staggered(space)], compared):
        for plan in plans:
            parts = count_parts(model, plan, inputs, places_of(space))
            for key in keys_of(space, plan):
                if works.setdefault(key, parts[key[0]]) != parts[key[0]]:
                    warnings.warn(_WHOLE.format(key[0] or "what lies outside of all sites"), stacklevel=2)
                    return WholeCosts(space, model, inputs)
    return CostTable(space, works)


_WHOLE = (
    "{} does not cost the same beside all other choices, so costs are no sums over sites: each plan will be counted "
    "whole, which takes a conversion and a forward"
)


def places_of(space: Space) -> list[str]:
    """What has rows in the table: every site, and layers where sizes are decided."""
    return [*space.frame, *filter(None, _layers(space))]


def keys_of(space: Space, plan: Plan) -> list[Key]:
    """The rows of the table that a plan's cost is the sum of."""
    there, cuts = plan.converted, Cuts.to(plan.sizes, space.extents)
    keys: list[Key] = [
        (layer, DenseSpec(), 1.0, tuple(plan.sizes.get(name, space.extents[name].size) for name in extents))
        for layer, extents in _layers(space).items()
        if not cuts.lacks(layer)
    ]
    for name, shape in cuts.shapes_after({name: entry.shape for name, entry in space.frame.items()}).items():
        attention = space.readers.get(name)
        share = query_share(there.get(attention, DenseSpec())) if attention else 1.0
        keys.append((name, there.get(name, space.frame[name].spec), share, shape))
    return keys


def _layers(space: Space) -> dict[str, list[str]]:
    """Layers in which something can be smaller, or which can be left out, and the extents in each.

    `REST` has those that are in no layer.
    """
    layers: dict[str, list[str]] = {REST: []}
    for name, extent in space.extents.items():
        if extent.kind == "depth":
            for layer in range(extent.size):
                layers.setdefault(f"{name}.{layer}", [])
        else:
            stack, index = position(name)
            layers.setdefault(f"{stack}.{index}" if stack else REST, []).append(name)
    return layers


def _rounds(space: Space) -> Iterator[Plan]:
    """Plans in which every row of the table occurs: each choice of cores and layers beside each choice of sizes.

    The limits of the space do not matter here, as these plans are only counted; whole stacks have all layers.
    """
    kinds = [_kind(space, d) for d in space.decisions]
    most = {
        kind: max((len(d.values) for d, own in zip(space.decisions, kinds, strict=True) if own == kind), default=1)
        for kind in ("core", "layer", "width", "heads")
    }
    combinations = (dict(zip(most, choices, strict=True)) for choices in product(*map(range, most.values())))
    # The diagonal tells most.
    for chosen in sorted(combinations, key=lambda c: (len(set(c.values())) > 1, tuple(c.values()))):
        wanted = [
            d.largest if isinstance(d, SizeDecision) and kind == "depth" else chosen.get(kind, 0)
            for d, kind in zip(space.decisions, kinds, strict=True)
        ]
        yield _wrapped(space, wanted)


def _kind(space: Space, decision: Decision) -> str:
    """What a decision is about."""
    if isinstance(decision, SizeDecision):
        return space.extents[decision.extents[0]].kind
    if isinstance(decision, SpecDecision) and is_attention(space.frame[decision.sites[0]]):
        return "core"
    return "layer"


def _staggered(space: Space) -> Plan:
    """A plan in which each decision differs from the one before it."""
    return _wrapped(space, range(len(space.decisions)))


def _wrapped(space: Space, wanted: Sequence[int]) -> Plan:
    """The plan of choices by number, counted from the first again where a decision has fewer."""
    return space.to_plan([w % len(d.values) for w, d in zip(wanted, space.decisions, strict=True)])
