"""What is a schedule rule?

A rule knows one way to make one definition fast on the machines that have what it needs. Rules are tried in order and
one that does not apply says why, so the way a kernel was built can be read off: `shiftadd profile kernels --explain`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from tvm.s_tir import Schedule
from tvm.tirx import PrimFunc

from ..targets import Target

Decisions = Mapping[str, int]
"""Values of a rule's free parameters, by name."""


@dataclass(frozen=True)
class Rule:
    """One way to schedule one definition.

    Args:
        name: what decisions are recorded under.
        refuses: says why the rule does not apply to a shape and target; None where it does.
        space: the free parameters and their candidates, the default first.
        apply: transforms the schedule of the definition in place, or returns a function that takes its place: for
            programs that no transformation reaches.
    """

    name: str
    refuses: Callable[[Any, Target], str | None]
    space: Callable[[Any, Target], dict[str, list[int]]]
    apply: Callable[[Schedule, Any, Target, Decisions], PrimFunc | None]

    def scheduled(self, schedule: Schedule, shape: Any, target: Target, decisions: Decisions) -> Schedule:
        """The schedule with the rule applied; decisions that are not given take their defaults."""
        chosen = {name: candidates[0] for name, candidates in self.space(shape, target).items()} | dict(decisions)
        replaced = self.apply(schedule, shape, target, chosen)
        return schedule if replaced is None else Schedule(replaced)

    def admitted(self, decisions: Decisions, shape: Any, target: Target) -> Decisions:
        """Decisions that the space still holds: records may be older than the rule."""
        space = self.space(shape, target)
        return {name: value for name, value in decisions.items() if value in space.get(name, ())}

    def candidates(self, shape: Any, target: Target) -> list[dict[str, int]]:
        """Every point of the space once, the default first."""
        space = self.space(shape, target)
        return [dict(zip(space, point, strict=True)) for point in product(*space.values())]


def always(_shape: object, _target: Target) -> None:
    """Refuses nothing: for rules that apply everywhere."""


def no_choice(_shape: object, _target: Target) -> dict[str, list[int]]:
    """A space without parameters."""
    return {}


def one_block(_shape: object, _target: Target) -> dict[str, list[int]]:
    """A space whose tiles hold one block of outputs."""
    return {"blocks": [1]}


class NoRuleError(RuntimeError):
    """No rule applies to a kernel; the message lists what each one said."""


def choose(rules: tuple[Rule, ...], shape: object, target: Target) -> Rule:
    """The first rule that applies.

    Raises:
        NoRuleError: none does.
    """
    refusals = refused(rules, shape, target)
    if len(refusals) < len(rules):
        return rules[len(refusals)]
    reasons = "; ".join(f"{name}: {reason}" for name, reason in refusals.items())
    raise NoRuleError(f"no schedule rule for {shape} on {target.name} ({reasons})")


def refused(rules: tuple[Rule, ...], shape: object, target: Target) -> dict[str, str]:
    """Why the rules before the first one that applies do not."""
    refusals = {}
    for rule in rules:
        reason = rule.refuses(shape, target)
        if reason is None:
            break
        refusals[rule.name] = reason
    return refusals


def divisors(number: int, wanted: tuple[int, ...]) -> list[int]:
    """Those of the wanted factors that divide a number, in their order; 1 if none does.

    >>> divisors(256, (6, 4, 2))
    [4, 2]
    """
    return [factor for factor in wanted if number % factor == 0] or [1]
