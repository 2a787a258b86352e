"""Which plan is a candidate, and which candidate is a plan?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from shiftadd_transformers.extents import Cuts, Extent
from shiftadd_transformers.plan import Entry, Plan
from shiftadd_transformers.specs import DenseSpec, Spec

from .decisions import Decision, SizeDecision, SpecDecision
from .resolve import Frame, is_attention, query_share


@dataclass(frozen=True)
class Translation:
    """Between the choices of a space and plans; limits and canonical forms are the space's own.

    Args:
        frame: Every site of the model as it is.
        readers: Query and key projections → the attention that reads them.
        extents: What decisions about sizes are about.
        decisions: What is decided.
        model: Class name of the model.
    """

    frame: Frame
    readers: Mapping[str, str]
    extents: Mapping[str, Extent]
    decisions: Sequence[Decision]
    model: str

    def plan(self, candidate: Sequence[int]) -> Plan:
        """What becomes of each module that is left."""
        cuts = self.cuts(candidate)
        shapes = cuts.shapes_after({name: entry.shape for name, entry in self.frame.items()})
        entries = {n: replace(e, shape=shapes[n]) for n, e in self.frame.items() if n in shapes}
        for name, spec in self.specs(candidate).items():
            if name in entries:
                entries[name] = Entry(spec, entries[name].role, entries[name].shape)
        for name, attention in self.readers.items():
            if name in entries and not query_share(entries[attention].spec):
                entries[name] = replace(entries[name], spec=DenseSpec(), reason="left out by the mixer")
        listed = {n: e for n, e in entries.items() if e.spec.changes or not is_attention(self.frame[n])}
        return Plan(listed, self.model, dict(cuts.sizes))

    def specs(self, candidate: Sequence[int]) -> dict[str, Spec]:
        """Site → spec, for what is decided."""
        chosen = zip(self.decisions, candidate, strict=True)
        return {site: d.values[c] for d, c in chosen if isinstance(d, SpecDecision) for site in d.sites}

    def cuts(self, candidate: Sequence[int]) -> Cuts:
        """What is smaller than in the model."""
        chosen = zip(self.decisions, candidate, strict=True)
        sizes = {name: d.values[c] for d, c in chosen if isinstance(d, SizeDecision) for name in d.extents}
        return Cuts.to(sizes, self.extents)

    def choices(self, plan: Plan, settings: Mapping[str, Any]) -> list[int]:
        """Which choice of each decision a plan shows; the first one where it shows none.

        Raises:
            ValueError: It shows something else; the message names it.
        """
        decided = {site for d in self.decisions if isinstance(d, SpecDecision) for site in d.sites}
        for name, spec in plan.converted.items():
            if name not in decided:
                raise ValueError(f"the plan makes {name} {spec}, which the space leaves as it is")
        for name, size in plan.sizes.items():
            if name not in self.extents:
                raise ValueError(f"the plan leaves the first {size} of {name}, which the space leaves as it is")
        cuts = Cuts.to(plan.sizes, self.extents)
        return [self._choice(decision, plan, cuts, settings) for decision in self.decisions]

    def _choice(self, decision: Decision, plan: Plan, cuts: Cuts, settings: Mapping[str, Any]) -> int:
        if isinstance(decision, SpecDecision):
            return self._operator(decision, plan, cuts)
        if isinstance(decision, SizeDecision):
            return self._size(decision, cuts)
        if settings.get(decision.name) not in decision.values:
            raise ValueError(f"{decision.name} must be one of {', '.join(decision.labels)}; pass it in settings")
        return decision.values.index(settings[decision.name])

    def _operator(self, decision: SpecDecision, plan: Plan, cuts: Cuts) -> int:
        there = plan.converted
        read = [
            s
            for s in decision.sites
            if not cuts.lacks(s) and (s not in self.readers or query_share(there.get(self.readers[s], DenseSpec())))
        ]
        for index, spec in enumerate(decision.values):
            if all(there.get(site) == spec if spec.changes else site not in there for site in read):
                return index
        found = ", ".join(dict.fromkeys(str(there.get(site, "dense")) for site in read))
        raise ValueError(f"{decision.name} is {found} in the plan; the space offers {', '.join(decision.labels)}")

    def _size(self, decision: SizeDecision, cuts: Cuts) -> int:
        left = [name for name in decision.extents if not cuts.lacks(name)]
        found = list(dict.fromkeys(cuts.sizes.get(name, self.extents[name].size) for name in left))
        if len(found) > 1 or set(found) - set(decision.values):
            sizes = ", ".join(map(str, found))
            raise ValueError(f"{decision.name} is {sizes} in the plan; the space offers {', '.join(decision.labels)}")
        return decision.values.index(found[0]) if found else 0
