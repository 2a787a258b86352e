"""What does a plan cost? Every choice at every site measured once; a plan's cost is then a sum.

A count names the module of everything that it finds, so a few forwards, each with another choice everywhere, measure
all choices of all sites. What a site costs depends on the plan in one more way: an attention core may read half of the
queries and keys, or none. So the table has a row per site, spec and share.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache, reduce
from itertools import product
from operator import add

from torch import nn

from shiftadd_transformers.plan import Plan
from shiftadd_transformers.specs import DenseSpec, Spec

from .decisions import SpecDecision
from .resolve import is_attention, query_share
from .space import Space
from .work import REST, Inputs, Work, count_parts

Key = tuple[str, Spec, float]
"""A site, what it became, and the share of it that the attention around reads."""

Price = Callable[[Work], float]
"""A number that adds up over the parts of a model."""


class CostTable:
    """Costs of a space's plans as sums over sites.

    Args:
        space: Whose plans.
        works: Per site, spec and share.
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
        return reduce(add, count_parts(self._model, Plan.from_json(plan), self._inputs, self.space.frame).values())


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
            parts = count_parts(model, plan, inputs, space.frame)
            for key in keys_of(space, plan):
                if works.setdefault(key, parts[key[0]]) != parts[key[0]]:
                    warnings.warn(_WHOLE.format(key[0] or "what lies outside of all sites"), stacklevel=2)
                    return WholeCosts(space, model, inputs)
    return CostTable(space, works)


_WHOLE = (
    "{} does not cost the same beside all other choices, so costs are no sums over sites: each plan will be counted "
    "whole, which takes a conversion and a forward"
)


def keys_of(space: Space, plan: Plan) -> list[Key]:
    """The rows of the table that a plan's cost is the sum of."""
    there = plan.converted
    keys: list[Key] = [(REST, DenseSpec(), 1.0)]
    for name, entry in space.frame.items():
        attention = space.readers.get(name)
        share = query_share(there.get(attention, DenseSpec())) if attention else 1.0
        keys.append((name, there.get(name, entry.spec), share))
    return keys


def _rounds(space: Space) -> Iterator[Plan]:
    """Plans in which every row of the table occurs: each choice of cores beside each choice of layers.

    The limits of the space do not matter here, as these plans are only counted.
    """
    decisions = [d if isinstance(d, SpecDecision) else None for d in space.decisions]
    cores = [d is not None and is_attention(space.frame[d.sites[0]]) for d in decisions]
    most = {
        kind: max((len(d.values) for d, c in zip(decisions, cores, strict=True) if d and c == kind), default=1)
        for kind in (True, False)
    }
    pairs = product(range(most[True]), range(most[False]))
    for core, layer in sorted(pairs, key=lambda pair: (pair[0] != pair[1], pair)):  # the diagonal tells most
        yield _wrapped(space, [core if is_core else layer for is_core in cores])


def _staggered(space: Space) -> Plan:
    """A plan in which each decision differs from the one before it."""
    return _wrapped(space, range(len(space.decisions)))


def _wrapped(space: Space, wanted: Sequence[int]) -> Plan:
    """The plan of choices by number, counted from the first again where a decision has fewer."""
    return space.to_plan([w % len(d.values) for w, d in zip(wanted, space.decisions, strict=True)])
