"""Which candidates are there when layers may be left out? A part of the space for each choice of depths.

A decision about layers that are left out is without effect, and which attentions read a module depends on the layers
that are left. Given the depths, both are fixed, and what remains is counted exactly (`completions`). So a space is the
union of its branches, one per choice of depths.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, product

from shiftadd_transformers.extents import Cuts, Extent

from .completions import Completions, Uses, pick
from .decisions import Candidate, Decision, SizeDecision, SpecDecision
from .resolve import silencing_of, watched_of


@dataclass(frozen=True)
class Branch:
    """The candidates of one choice of depths.

    Attributes:
        gone: Decisions about left-out layers alone.
        watched: Per decision, those that can leave it without effect together.
        silencing: Per decision, the choices that do.
        completions: What is left to decide.
    """

    gone: frozenset[int]
    watched: Sequence[frozenset[int]]
    silencing: Sequence[frozenset[int]]
    completions: Completions

    def silent(self, d: int, candidate: Sequence[int]) -> bool:
        """Whether a decision is without effect."""
        watched = self.watched[d]
        return d in self.gone or (bool(watched) and all(candidate[w] in self.silencing[w] for w in watched))


class Branches:
    """All candidates of a space.

    Args:
        decisions: What is decided.
        readers: Query and key projections → the attention that reads them.
        extents: What decisions about sizes are about.
        uses: Per decision and choice, how much of each limit it uses.
        limits: What may be used.
    """

    def __init__(
        self,
        decisions: Sequence[Decision],
        readers: Mapping[str, str],
        extents: Mapping[str, Extent],
        uses: Sequence[Sequence[Uses]],
        limits: Uses,
    ) -> None:
        self._decisions, self._readers, self._extents = decisions, readers, extents
        self._uses, self._limits = uses, limits
        self._deep = [d for d, decision in enumerate(decisions) if is_depth(decision, extents)]
        self._silencing = [silencing_of(decision) for decision in decisions]
        self._known: dict[Candidate, Branch] = {}

    def of(self, candidate: Sequence[int]) -> Branch:
        """The branch that a choice per decision is in."""
        return self._branch(tuple(int(candidate[d]) for d in self._deep))

    def count(self) -> int:
        """How many candidates there are."""
        return sum(branch.completions.count() for branch in self._all())

    def draw(self, rng: random.Random) -> Candidate:
        """One of them, all with equal probability."""
        branches = list(self._all())
        weights = {number: branch.completions.count() for number, branch in enumerate(branches)}
        return branches[pick(weights, rng) if len(branches) > 1 else 0].completions.draw(rng)

    def repair(self, raw: Candidate) -> Candidate:
        """The candidate that a choice per decision stands for; depths change only where nothing else is possible."""
        own = tuple(raw[d] for d in self._deep)
        depths = sorted(self._depths(), key=lambda other: sum(a != b for a, b in zip(own, other, strict=True)))
        nearest = next(branch for branch in map(self._branch, depths) if branch.completions.count())
        return nearest.completions.repair(raw)

    def every(self) -> Iterator[Candidate]:
        """All of them."""
        return chain.from_iterable(branch.completions.every() for branch in self._all())

    def _all(self) -> Iterator[Branch]:
        return map(self._branch, self._depths())

    def _depths(self) -> Iterator[Candidate]:
        return product(*(range(len(self._decisions[d].values)) for d in self._deep))

    def _branch(self, depths: Candidate) -> Branch:
        if depths not in self._known:
            self._known[depths] = self._made(dict(zip(self._deep, depths, strict=True)))
        return self._known[depths]

    def _made(self, depths: Mapping[int, int]) -> Branch:
        sizes = {}
        for d, choice in depths.items():
            sizes.update(dict.fromkeys(subjects(self._decisions[d]), self._decisions[d].values[choice]))
        lacks = Cuts.to(sizes, self._extents).lacks
        parts = [subjects(decision) for decision in self._decisions]
        gone = frozenset(d for d, names in enumerate(parts) if names and all(map(lacks, names)))
        watched = watched_of(self._decisions, self._readers, self._silencing, lacks)
        none: Uses = tuple(0 for _ in self._limits)
        uses = [[none] if d in gone else own for d, own in enumerate(self._uses)]
        fixed = {d: (choice,) for d, choice in depths.items()}
        return Branch(gone, watched, self._silencing, Completions(uses, self._limits, watched, self._silencing, fixed))


def is_depth(decision: Decision, extents: Mapping[str, Extent]) -> bool:
    """Whether a decision says how many layers there are."""
    return isinstance(decision, SizeDecision) and extents[decision.extents[0]].kind == "depth"


def subjects(decision: Decision) -> tuple[str, ...]:
    """Names of the modules that a decision is about."""
    if isinstance(decision, SizeDecision):
        return decision.extents
    return decision.sites if isinstance(decision, SpecDecision) else ()
