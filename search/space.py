"""Which plans are there to choose from? A space of plans for one model, and moves inside it."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from shiftadd_transformers.plan import Entry, Plan
from shiftadd_transformers.specs import DenseSpec, Spec, nearest

from .completions import Completions
from .decisions import AtMost, Candidate, Decision, Same, SpecDecision, Vocabulary, decision_from_dict
from .resolve import (
    decisions_of,
    frame_of,
    is_attention,
    joined,
    query_share,
    readers_of,
    silencing_of,
    watched_of,
)

FORMAT = 1


@dataclass(frozen=True)
class Space:
    """Decisions over one model's modules. A candidate, one choice per decision, is a plan.

    Equal plans are one candidate: what an attention core leaves without effect (the queries and keys of a token
    mixer) stands at its first choice. All candidates that methods return are in this canonical form and within the
    limits.

    Args:
        frame: Every site of the model as it is.
        readers: Query and key projections → the attention that reads them.
        decisions: What is searched. Those that are not about specs do not appear in plans; see `settings`.
        limits: How often operators may be chosen.
        model: Class name of the model.

    References:
        You et al., ShiftAddNAS, ICML 2022. Differs: a candidate is a plan for a given model, not a model of other
        sizes; decisions about sizes can stand beside those about operators.
    """

    frame: Mapping[str, Entry]
    readers: Mapping[str, str]
    decisions: tuple[Decision, ...]
    limits: tuple[AtMost, ...] = ()
    model: str = ""
    _completions: Completions = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        names = [d.name for d in self.decisions]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"a space needs decisions with different names, not {names}")
        uses = [list(zip(*(limit.concerns(d) for limit in self.limits), strict=True)) for d in self.decisions]
        if not self.limits:
            uses = [[()] * len(d.values) for d in self.decisions]
        allowed = tuple(limit.count for limit in self.limits)
        completions = Completions(uses, allowed, self._watched, self._silencing)
        object.__setattr__(self, "_completions", completions)
        if not completions.count():
            raise ValueError(f"no candidate meets all limits: {', '.join(map(str, self.limits))}; allow more")

    @classmethod
    def of(
        cls,
        model: nn.Module,
        vocabularies: Sequence[Vocabulary | Mapping[str, Any]],
        constraints: Sequence[AtMost | Same] = (),
        extra: Sequence[Decision] = (),
    ) -> Space:
        """Resolve vocabularies against a model.

        Args:
            model: A dense model. Heads and tied layers are left out, as in `make_plan`.
            vocabularies: First match wins; modules that none selects stay as they are.
            constraints: `same` groups are joined, `at_most` limits are kept.
            extra: Decisions about something else than operators.

        Raises:
            ValueError: A vocabulary or constraint does not fit the model; the message proposes names.

        >>> from shiftadd_transformers import rule
        >>> from search import choose
        >>> toy = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
        >>> space = Space.of(toy, [choose(["dense", "shift", "adder"], "*")])
        >>> space.count(), space.to_plan((0, 2)).summary()
        (9, 'dense: 1 modules, 50% of weights; adder: 1 modules, 50% of weights')
        """
        written = [v if isinstance(v, Vocabulary) else Vocabulary.from_dict(v) for v in vocabularies]
        frame = frame_of(model)
        decisions = decisions_of(model, written, frame)
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
        return cls(frame, readers_of(model, frame), (*decisions, *extra), limits, type(model).__name__)

    def count(self) -> int:
        """How many candidates there are, exactly."""
        return self._completions.count()

    def sample(self, rng: random.Random) -> Candidate:
        """One candidate, all with equal probability."""
        return self._completions.draw(rng)

    def every(self) -> Iterator[Candidate]:
        """All candidates; for small spaces."""
        return self._completions.every()

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
        return tuple(0 if self._silent(d, candidate) else int(choice) for d, choice in enumerate(candidate))

    def violations(self, candidate: Sequence[int]) -> list[str]:
        """The limits that a choice per decision exceeds, in words."""
        canonical, broken = self.canonical(candidate), []
        for limit in self.limits:
            used = sum(
                limit.concerns(d)[c]
                for i, (d, c) in enumerate(zip(self.decisions, canonical, strict=True))
                if not self._silent(i, canonical)
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
        return self._completions.repair(canonical) if self.violations(canonical) else canonical

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

    def uniform(self, kind: str) -> Candidate:
        """Choose one operator wherever it is offered, and elsewhere what changes nothing.

        Raises:
            ValueError: No decision offers it.
        """
        if kind not in self.kinds():
            raise ValueError(f"no decision offers {kind!r}; {nearest(kind, self.kinds())}")
        choices = []
        for d in self.decisions:
            offers = [d.index_of(kind), d.index_of("dense")] if isinstance(d, SpecDecision) else []
            choices.append(next((index for index in offers if index is not None), 0))
        return self.repair(choices)

    def kinds(self) -> list[str]:
        """The operators that are offered; "dense" stands for what changes nothing."""
        specs = [spec for d in self.decisions if isinstance(d, SpecDecision) for spec in d.values]
        return list(dict.fromkeys(spec.kind if spec.changes else "dense" for spec in specs))

    def reference_points(self) -> dict[str, Candidate]:
        """The uniform candidates by operator: where a search starts, and what it is compared with."""
        return {kind: self.uniform(kind) for kind in self.kinds()}

    def settings(self, candidate: Sequence[int]) -> dict[str, Any]:
        """What a candidate decides beside operators: decision → value."""
        chosen = zip(self.decisions, self.canonical(candidate), strict=True)
        return {d.name: d.values[choice] for d, choice in chosen if not isinstance(d, SpecDecision)}

    def to_plan(self, candidate: Sequence[int]) -> Plan:
        """What becomes of each module; a plan for `convert_`."""
        entries = dict(self.frame)
        for name, spec in self._specs(self.canonical(candidate)).items():
            entries[name] = Entry(spec, entries[name].role, entries[name].shape)
        for name, attention in self.readers.items():
            if not query_share(entries[attention].spec):
                entries[name] = replace(entries[name], spec=DenseSpec(), reason="left out by the mixer")
        return Plan({n: e for n, e in entries.items() if e.spec.changes or not is_attention(self.frame[n])}, self.model)

    def from_plan(self, plan: Plan, settings: Mapping[str, Any] | None = None) -> Candidate:
        """The candidate whose plan this is.

        Args:
            plan: Module names as in the model of this space.
            settings: Values of the decisions that are not about operators.

        Raises:
            ValueError: The plan is outside of the space; the message names what does not fit.
        """
        decided = {site for d in self.decisions if isinstance(d, SpecDecision) for site in d.sites}
        for name, spec in plan.converted.items():
            if name not in decided:
                raise ValueError(f"the plan makes {name} {spec}, which the space leaves as it is")
        choices = [self._chosen(d, plan, settings or {}) for d in self.decisions]
        candidate = self.canonical(choices)
        if broken := self.violations(candidate):
            raise ValueError(f"the plan is outside of the space: {'; '.join(broken)}")
        return candidate

    def to_dict(self) -> dict[str, Any]:
        """JSON form; the model is not needed to read it."""
        return {
            "format": FORMAT,
            "model": self.model,
            "sites": {name: entry.to_dict() for name, entry in self.frame.items()},
            "readers": dict(self.readers),
            "decisions": [d.to_dict() for d in self.decisions],
            "limits": [limit.to_dict() for limit in self.limits],
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
        return cls(frame, data["readers"], decisions, tuple(map(AtMost.from_dict, data["limits"])), data["model"])

    def to_json(self) -> str:
        """The space as text."""
        return json.dumps(self.to_dict(), indent=2)

    @classmethod
    def from_json(cls, text: str | Path) -> Space:
        """Read a space from JSON text, or from the file that a `Path` names."""
        return cls.from_dict(json.loads(text.read_text() if isinstance(text, Path) else text))

    def _specs(self, candidate: Sequence[int]) -> dict[str, Spec]:
        """Site → spec, for what is decided."""
        chosen = zip(self.decisions, candidate, strict=True)
        return {site: d.values[c] for d, c in chosen if isinstance(d, SpecDecision) for site in d.sites}

    def _chosen(self, decision: Decision, plan: Plan, settings: Mapping[str, Any]) -> int:
        """Which choice of a decision a plan shows."""
        if not isinstance(decision, SpecDecision):
            if settings.get(decision.name) not in decision.values:
                raise ValueError(f"{decision.name} must be one of {', '.join(decision.labels)}; pass it in settings")
            return decision.values.index(settings[decision.name])
        there = plan.converted
        read = [
            s for s in decision.sites if s not in self.readers or query_share(there.get(self.readers[s], DenseSpec()))
        ]
        for index, spec in enumerate(decision.values):
            if all(there.get(site) == spec if spec.changes else site not in there for site in read):
                return index
        found = ", ".join(dict.fromkeys(str(there.get(site, "dense")) for site in read))
        raise ValueError(f"{decision.name} is {found} in the plan; the space offers {', '.join(decision.labels)}")

    def _silent(self, d: int, candidate: Sequence[int]) -> bool:
        """Whether a decision is without effect: all that read its modules are token mixers."""
        watched = self._watched[d]
        return bool(watched) and all(candidate[w] in self._silencing[w] for w in watched)

    @cached_property
    def _watched(self) -> list[frozenset[int]]:
        """Per decision, those that can leave it without effect together."""
        return watched_of(self.decisions, self.readers, self._silencing)

    @cached_property
    def _silencing(self) -> list[frozenset[int]]:
        """Per decision, the choices that read no queries and keys."""
        return [silencing_of(decision) for decision in self.decisions]
