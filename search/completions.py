"""How many candidates are there, and which can still be reached? Exact counting under limits.

A candidate is one choice per decision. Two things keep the choices from being independent: a decision may be without
effect, given others (it is then fixed to its first choice, so that equal plans have one candidate), and limits say how
often an operator may be chosen. Both are counted with polynomials: the exponent of a term says how much of each limit
is used, its coefficient in how many ways. Decisions that influence each other form a component, whose polynomials are
multiplied; the counts are big integers and exact.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, reduce
from itertools import chain, combinations
from typing import TypeVar

from .decisions import Candidate

Uses = tuple[int, ...]
Polynomial = dict[Uses, int]
Allowed = Mapping[int, Sequence[int]]
Key = TypeVar("Key")


class Completions:
    """The candidates of a space, counted, drawn, repaired and listed.

    Args:
        uses: Per decision and choice, how much of each limit it uses.
        limits: What may be used.
        watched: Per decision, the decisions that can leave it without effect; empty if none can. These are never
            watching others themselves.
        silencing: Per decision, the choices that leave those watching it without effect; it takes all the watched.
        fixed: Decisions that are made already, with the one choice that they have.
    """

    def __init__(
        self,
        uses: Sequence[Sequence[Uses]],
        limits: Uses,
        watched: Sequence[frozenset[int]],
        silencing: Sequence[frozenset[int]],
        fixed: Allowed | None = None,
    ) -> None:
        self.uses, self.limits, self.watched, self.silencing = uses, limits, watched, silencing
        self._one: Polynomial = {tuple(0 for _ in limits): 1}
        self._all: Allowed = {d: range(len(choices)) for d, choices in enumerate(uses)} | dict(fixed or {})

    def count(self) -> int:
        """How many candidates there are."""
        return self._ways(0, self.limits)

    def draw(self, rng: random.Random) -> Candidate:
        """One of them, all with equal probability."""
        allowed: dict[int, Sequence[int]] = dict(self._all)
        left = self.limits
        for number, component in enumerate(self._components):
            terms = self._terms[number]
            weights = {uses: ways * self._ways(number + 1, _minus(left, uses)) for uses, ways in terms.items()}
            taken = pick(weights, rng)
            left = _minus(left, taken)
            for d in component:
                options = {c: self._polynomial(component, {**allowed, d: (c,)}).get(taken, 0) for c in allowed[d]}
                allowed[d] = (pick(options, rng),)
        return tuple(allowed[d][0] for d in range(len(self.uses)))

    def repair(self, raw: Candidate) -> Candidate:
        """The candidate that a choice per decision stands for: earlier decisions keep what they chose if possible."""
        return next(self._walk(lambda d: sorted(self._all[d], key=lambda c: c != raw[d])))

    def every(self) -> Iterator[Candidate]:
        """All of them."""
        return self._walk(lambda d: self._all[d])

    def _walk(self, preference: Callable[[int], Sequence[int]]) -> Iterator[Candidate]:
        """Candidates in the order of preference, going on only where one can be completed."""
        order = [(number, d) for number, component in enumerate(self._components) for d in component]
        yield from self._extend(order, 0, dict(self._all), self.limits, preference)

    def _extend(
        self,
        order: Sequence[tuple[int, int]],
        step: int,
        allowed: dict[int, Sequence[int]],
        left: Uses,
        preference: Callable[[int], Sequence[int]],
    ) -> Iterator[Candidate]:
        if step == len(order):
            yield tuple(allowed[d][0] for d in range(len(self.uses)))
            return
        number, d = order[step]
        component = self._components[number]
        for choice in preference(d):
            fixed = {**allowed, d: (choice,)}
            terms = self._polynomial(component, fixed)
            if any(self._ways(number + 1, _minus(left, uses)) for uses in terms):
                last = d == component[-1]
                rest = _minus(left, next(iter(terms))) if last else left
                yield from self._extend(order, step + 1, fixed, rest, preference)

    @cached_property
    def _components(self) -> list[list[int]]:
        """Decisions that influence each other, otherwise than through limits."""
        groups: list[set[int]] = []
        for d, watched in enumerate(self.watched):
            joined = {d, *watched}
            apart = [group for group in groups if not group & joined]
            groups = [*apart, joined.union(*(group for group in groups if group & joined))]
        return sorted(sorted(group) for group in groups)

    @cached_property
    def _terms(self) -> list[Polynomial]:
        """Ways to decide each component."""
        return [self._polynomial(component, self._all) for component in self._components]

    @cached_property
    def _tails(self) -> list[Polynomial]:
        """For each component, the product of it and all later ones."""
        tails = [self._one]
        for terms in reversed(self._terms):
            tails.append(self._times(tails[-1], terms))
        return tails[::-1]

    def _ways(self, number: int, left: Uses) -> int:
        """How many ways there are to decide the components from `number` on with what is left of the limits."""
        return sum(ways for uses, ways in self._tails[number].items() if _fits(uses, left))

    def _polynomial(self, component: Sequence[int], allowed: Allowed) -> Polynomial:
        """Ways to decide one component.

        A decision watching one other is counted beside that one's choices. For one that watches several, the ways in
        which it has an effect are all ways, less those in which all the watched silence it: the sum runs over which
        of these decisions are taken to be silent.
        """
        several = [d for d in component if len(self.watched[d]) > 1]
        total: Polynomial = {}
        for silent in chain.from_iterable(combinations(several, size) for size in range(len(several) + 1)):
            silenced = frozenset().union(*(self.watched[d] for d in silent))
            factors = [self._own(d, component, allowed, d in silenced) for d in component if not self.watched[d]]
            for d in several:
                spoken = self._sum(d, allowed[d])
                factors.append(_added(self._still(d, allowed), spoken, -1) if d in silent else spoken)
            total = _added(total, reduce(self._times, factors, self._one), 1)
        return {uses: ways for uses, ways in total.items() if ways}

    def _own(self, d: int, component: Sequence[int], allowed: Allowed, silenced: bool) -> Polynomial:
        """Ways for a decision and for those that watch it alone."""
        watching = [w for w in component if self.watched[w] == {d}]
        silencing = self._sum(d, [c for c in allowed[d] if c in self.silencing[d]])
        quiet = reduce(self._times, (self._still(w, allowed) for w in watching), silencing)
        if silenced:
            return quiet
        speaking = self._sum(d, [c for c in allowed[d] if c not in self.silencing[d]])
        return _added(quiet, reduce(self._times, (self._sum(w, allowed[w]) for w in watching), speaking), 1)

    def _still(self, d: int, allowed: Allowed) -> Polynomial:
        """A decision without effect stands at its first choice."""
        return self._one if 0 in allowed[d] else {}

    def _sum(self, d: int, choices: Iterable[int]) -> Polynomial:
        total: Polynomial = {}
        for choice in choices:
            uses = self.uses[d][choice]
            if _fits(uses, self.limits):
                total[uses] = total.get(uses, 0) + 1
        return total

    def _times(self, a: Polynomial, b: Polynomial) -> Polynomial:
        product: Polynomial = {}
        for left, ways in a.items():
            for right, more in b.items():
                uses = tuple(x + y for x, y in zip(left, right, strict=True))
                if _fits(uses, self.limits):
                    product[uses] = product.get(uses, 0) + ways * more
        return product


def _added(a: Polynomial, b: Polynomial, sign: int) -> Polynomial:
    return {uses: a.get(uses, 0) + sign * b.get(uses, 0) for uses in a.keys() | b.keys()}


def _minus(a: Uses, b: Uses) -> Uses:
    return tuple(x - y for x, y in zip(a, b, strict=True))


def _fits(uses: Uses, limits: Uses) -> bool:
    return all(used <= limit for used, limit in zip(uses, limits, strict=True))


def pick(weights: Mapping[Key, int], rng: random.Random) -> Key:
    """A key with probability in proportion to its weight; big integers, no rounding.

    >>> pick({"never": 0, "always": 3}, random.Random(0))
    'always'
    """
    ticket = rng.randrange(sum(weights.values()))
    for key, weight in weights.items():
        ticket -= weight
        if ticket < 0:
            return key
    raise AssertionError("the ticket is below the sum")
