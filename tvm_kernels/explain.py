"""Why is a kernel built as it is? Which rule serves it, what it decides, and what the rules before it said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from .kernels import Kernel
from .schedules.rule import choose, refused
from .targets import Target
from .tracing import launches


@dataclass(frozen=True)
class Explanation:
    """How one kernel is scheduled.

    Args:
        kernel: the kernel.
        rule: the rule that serves it.
        decisions: values of the rule's free parameters.
        recorded: whether tuning found them; else they are defaults.
        refusals: what the rules before it said, by name.
    """

    kernel: Kernel
    rule: str
    decisions: Mapping[str, int]
    recorded: bool
    refusals: Mapping[str, str]


def explain(layer: nn.Module, rows: int, target: Target) -> list[Explanation]:
    """The kernels that a packed layer runs, see :func:`~.tracing.launches`.

    Raises:
        MissingKernelError: an operator has no kernel.
        NoRuleError: no rule serves a kernel; the message says what each one said.
    """
    return [_explanation(launch.kernel) for launch in launches(layer, rows, target)]


def _explanation(kernel: Kernel) -> Explanation:
    rules, shape, target = kernel.rules(), kernel.shape, kernel.target
    rule = choose(rules, shape, target)
    recorded = rule.admitted(kernel.recorded().get(rule.name, {}), shape, target)
    decisions = {**rule.candidates(shape, target)[0], **recorded}
    return Explanation(kernel, rule.name, decisions, bool(recorded), refused(rules, shape, target))
