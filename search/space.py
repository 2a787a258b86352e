"""Which plans are there to choose from? A space of plans for one model, and moves inside it."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from shiftadd_transformers.extents import Cuts, Extent
from shiftadd_transformers.plan import Entry, Plan
from shiftadd_transformers.specs import nearest

from .branches import Branches
from .decisions import AtMost, Candidate, Decision, Same, SizeDecision, SpecDecision, Vocabulary, decision_from_dict
from .plans import Translation
from .resolve import decisions_of, frame_of, joined, readers_of, refuse_halved
from .sizes import Sizes, size_decisions, vocabulary_from

FORMAT = 1


@dataclass(frozen=True)
class Space:
    """Decisions over one model's modules. A candidate, one choice per decision, is a plan.

    Equal plans are one candidate: what an attention core leaves without effect (the queries and keys of a token
    mixer), and what would be of layers that are left out, stands at its first choice. All candidates that methods
    return are in this canonical form and within the limits.

    Args:
        frame: Every site of the model as it is.
        readers: Query and key projections → the attention that reads them.
        decisions: What is searched: operators, sizes, and what is neither and not in plans; see `settings`.
        limits: How often operators may be chosen.
        model: Class name of the model.
        extents: What decisions about sizes are about, by name.

    References:
        You et al., ShiftAddNAS, ICML 2022; Wang et al., HAT, ACL 2020 (widths, heads, depths). Differs: a candidate
        is a plan for a given model, of which it is a leading part; the width of the tokens stays.
    """

    frame: Mapping[str, Entry]
    readers: Mapping[str, str]
    decisions: tuple[Decision, ...]
    limits: tuple[AtMost, ...] = ()
    model: str = ""
    extents: Mapping[str, Extent] = field(default_factory=dict)
    _branches: Branches = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        names = [d.name for d in self.decisions]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"a space needs decisions with different names, not {names}")
        uses = [list(zip(*(limit.concerns(d) for limit in self.limits), strict=True)) for d in self.decisions]
        if not self.limits:
            uses = [[()] * len(d.values) for d in self.decisions]
        allowed = tuple(limit.count for limit in self.limits)
        branches = Branches(self.decisions, self.readers, self.extents, uses, allowed)
        object.__setattr__(self, "_branches", branches)
        if not branches.count():
            raise ValueError(f"no candidate meets all limits: {', '.join(map(str, self.limits))}; allow more")

    @classmethod
    def of(
        cls,
        model: nn.Module,
        vocabularies: Sequence[Vocabulary | Sizes | Mapping[str, Any]],
        constraints: Sequence[AtMost | Same] = (),
        extra: Sequence[Decision] = (),
    ) -> Space:
        """Resolve vocabularies against a model.

        Args:
            model: A dense model. Heads and tied layers are left out, as in `make_plan`.
            vocabularies: Of operators (`choose`) and sizes (`widths`, `heads`, `depth`). First match wins; what none
                selects stays as it is.
            constraints: `same` groups are joined, `at_most` limits are kept.
            extra: Decisions about something else.

        Raises:
            ValueError: A vocabulary or constraint does not fit the model; the message proposes names.

        >>> from shiftadd_transformers import rule
        >>> from search import choose
        >>> toy = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
        >>> space = Space.of(toy, [choose(["dense", "shift", "adder"], "*")])
        >>> space.count(), space.to_plan((0, 2)).summary()
        (9, 'dense: 1 modules, 50% of weights; adder: 1 modules, 50% of weights')
        """
        written = [vocabulary_from(vocabulary) for vocabulary in vocabularies]
        frame = frame_of(model)
        sizes, extents = size_decisions(model, written)
        decisions = [*decisions_of(model, written, frame), *sizes]
        refuse_halved(decisions)
        for constraint in constraints:
            if isinstance(constraint, Same):
                decisions = joined(decisions, constraint)
        limits = tuple(c for c in constraints if isinstance(c, AtMost))
        for limit in limits:
            if not any(any(limit.concerns(d)) for d in decisions):
                known = sorted({s.kind for d in decisions if isinstance(d, SpecDecision) for s in d.values})
                raise ValueError(
                    f"{limit} concerns no choice: operators {nearest(limit.kind, known)}; "
                    f"decisions {nearest(limit.among, [d.name for d in decisions])}"
                )
        named = {extent.name: extent for extent in extents}
        return cls(frame, readers_of(model, frame), (*decisions, *extra), limits, type(model).__name__, named)

    def count(self) -> int:
        """How many candidates there are, exactly."""
        return self._branches.count()

    def sample(self, rng: random.Random) -> Candidate:
        """One candidate, all with equal probability."""
        return self._branches.draw(rng)

    def every(self) -> Iterator[Candidate]:
        """All candidates; for small spaces."""
        return self._branches.every()

    def canonical(self, candidate: Sequence[int]) -> Candidate:
        """The candidate with the same plan that stands for it.

        Raises:
            ValueError: Not one choice per decision.
        """
        if len(candidate) != len(self.decisions) or not all(
            0 <= choice < len(d.values) for choice, d in zip(candidate, self.decisions, strict=True)
        ):
            raise ValueError(
                f"{tuple(candidate)} is no candidate: one index for each of {len(self.decisions)} decisions"
            )
        silent = self._branches.of(candidate).silent
        return tuple(0 if silent(d, candidate) else int(choice) for d, choice in enumerate(candidate))

    def violations(self, candidate: Sequence[int]) -> list[str]:
        """The limits that a choice per decision exceeds, in words."""
        canonical, broken = self.canonical(candidate), []
        silent = self._branches.of(canonical).silent
        for limit in self.limits:
            used = sum(
                limit.concerns(d)[c]
                for i, (d, c) in enumerate(zip(self.decisions, canonical, strict=True))
                if not silent(i, canonical)
            )
            if used > limit.count:
                broken.append(f"{used} decisions choose {limit.kind}, at most {limit.count} may")
        return broken

    def repair(self, candidate: Sequence[int]) -> Candidate:
        """The candidate that any choice per decision stands for.

        It is the canonical form where the limits allow it. Otherwise decisions keep their choice in order, as long as
        the rest can be completed, and take the first possible one after that.
        """
        canonical = self.canonical(candidate)
        return self._branches.repair(canonical) if self.violations(canonical) else canonical

    def mutate(self, candidate: Sequence[int], rng: random.Random, p: float | None = None) -> Candidate:
        """Choose anew, with probability `p` per decision (by default, one decision on average)."""
        chance = 1 / len(self.decisions) if p is None else p
        changed = [
            rng.choice([c for c in range(len(d.values)) if c != choice] or [choice])
            if rng.random() < chance
            else choice
            for d, choice in zip(self.decisions, candidate, strict=True)
        ]
        return self.repair(changed)

    def crossover(self, a: Sequence[int], b: Sequence[int], rng: random.Random) -> Candidate:
        """Take each decision from one of two candidates."""
        return self.repair([rng.choice(pair) for pair in zip(a, b, strict=True)])

    def neighbours(self, candidate: Sequence[int]) -> list[Candidate]:
        """The candidates that differ in one decision."""
        own, found = self.canonical(candidate), []
        for d, decision in enumerate(self.decisions):
            for choice in range(len(decision.values)):
                other = self.canonical((*own[:d], choice, *own[d + 1 :]))
                if other != own and not self.violations(other):
                    found.append(other)
        return list(dict.fromkeys(found))

    def uniform(self, kind: str, *, smallest: bool = False) -> Candidate:
        """Choose one operator wherever it is offered, and elsewhere what changes nothing.

        Args:
            kind: The operator's name in JSON; "dense" for what changes nothing.
            smallest: Choose the smallest sizes, and not the model's own.

        Raises:
            ValueError: No decision offers it.
        """
        if kind not in self.kinds():
            raise ValueError(f"no decision offers {kind!r}; {nearest(kind, self.kinds())}")
        choices: list[int] = []
        for d in self.decisions:
            if isinstance(d, SizeDecision):
                choices.append(d.smallest if smallest else d.largest)
                continue
            offers = [d.index_of(kind), d.index_of("dense")] if isinstance(d, SpecDecision) else []
            choices.append(next((index for index in offers if index is not None), 0))
        return self.repair(choices)

    def kinds(self) -> list[str]:
        """The operators that are offered; "dense" stands for what changes nothing."""
        specs = [spec for d in self.decisions if isinstance(d, SpecDecision) for spec in d.values]
        kinds = [spec.kind if spec.changes else "dense" for spec in specs]
        return list(dict.fromkeys(kinds + ["dense"] * any(isinstance(d, SizeDecision) for d in self.decisions)))

    def reference_points(self) -> dict[str, Candidate]:
        """The uniform candidates by operator: where a search starts, and what it is compared with.

        Where sizes are decided, each operator is there in the model's own size and in the smallest.
        """
        points = {kind: self.uniform(kind) for kind in self.kinds()}
        if any(isinstance(d, SizeDecision) for d in self.decisions):
            points |= {f"{kind}, smallest": self.uniform(kind, smallest=True) for kind in points}
        return points

    def settings(self, candidate: Sequence[int]) -> dict[str, Any]:
        """What a candidate decides that is not in its plan: decision → value."""
        chosen = zip(self.decisions, self.canonical(candidate), strict=True)
        return {d.name: d.values[choice] for d, choice in chosen if not isinstance(d, SpecDecision | SizeDecision)}

    def to_plan(self, candidate: Sequence[int]) -> Plan:
        """What becomes of each module; a plan for `convert_`."""
        return self._translation.plan(self.canonical(candidate))

    def cuts(self, candidate: Sequence[int]) -> Cuts:
        """What a candidate makes smaller."""
        return self._translation.cuts(self.canonical(candidate))

    def from_plan(self, plan: Plan, settings: Mapping[str, Any] | None = None) -> Candidate:
        """The candidate whose plan this is.

        Args:
            plan: Module names as in the model of this space.
            settings: Values of the decisions that are not in plans.

        Raises:
            ValueError: The plan is outside of the space; the message names what does not fit.
        """
        choices = self._translation.choices(plan, settings or {})
        candidate = self.canonical(choices)
        if broken := self.violations(candidate):
            raise ValueError(f"the plan is outside of the space: {'; '.join(broken)}")
        return candidate

    def to_dict(self) -> dict[str, Any]:
        """JSON form; the model is not needed to read it."""
        extents = {name: extent.to_dict() for name, extent in self.extents.items()}
        return {
            "format": FORMAT,
            "model": self.model,
            "sites": {name: entry.to_dict() for name, entry in self.frame.items()},
            "readers": dict(self.readers),
            "decisions": [d.to_dict() for d in self.decisions],
            "limits": [limit.to_dict() for limit in self.limits],
            **({"extents": extents} if extents else {}),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Space:
        """Rebuild from the JSON form.

        Raises:
            ValueError: It is not a space, or one of another format.
        """
        if not isinstance(data, Mapping) or data.get("format") != FORMAT:
            raise ValueError(f"not a space of format {FORMAT}: write it with Space.to_json()")
        frame = {name: Entry.from_dict(entry) for name, entry in data["sites"].items()}
        decisions = tuple(map(decision_from_dict, data["decisions"]))
        limits = tuple(map(AtMost.from_dict, data["limits"]))
        extents = {name: Extent.from_dict(extent) for name, extent in data.get("extents", {}).items()}
        return cls(frame, data["readers"], decisions, limits, data["model"], extents)

    def to_json(self) -> str:
        """The space as text."""
        return json.dumps(self.to_dict(), indent=2)

    @classmethod
    def from_json(cls, text: str | Path) -> Space:
        """Read a space from JSON text, or from the file that a `Path` names."""
        return cls.from_dict(json.loads(text.read_text() if isinstance(text, Path) else text))

    @cached_property
    def _translation(self) -> Translation:
        return Translation(self.frame, self.readers, self.extents, self.decisions, self.model)
