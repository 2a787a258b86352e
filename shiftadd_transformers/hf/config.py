"""What a checkpoint's config.json says about shift-add layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers.quantizers import register_quantization_config
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING
from transformers.utils.quantization_config import QuantizationConfigMixin

from ..plan import Plan
from ..rules import Rule
from ..specs import nearest

QUANT_METHOD = "shiftadd"
STATES = ("latent", "packed")


class ShiftAddConfig(QuantizationConfigMixin):
    """Rules or a plan, and the state that a model's layers are in.

    Pass it to `from_pretrained` to convert a dense checkpoint; a converted one carries it in its config.json.

    Args:
        rules: Ordered rules, for a model that is yet to be converted. They are resolved to a plan on loading.
        plan: The resolved plan, in the place of rules.
        state: "latent" to train, "packed" to run.
        dequantize: Load a converted checkpoint as an ordinary dense model.

    Raises:
        ValueError: Neither or both of rules and plan, an unknown state, an unknown key.

    >>> ShiftAddConfig([{"role": "mlp.*", "op": "shift"}]).state
    'latent'
    """

    def __init__(
        self,
        rules: Sequence[Rule | Mapping[str, Any]] | None = None,
        plan: Plan | Mapping[str, Any] | None = None,
        state: str = "latent",
        dequantize: bool = False,
        quant_method: str = QUANT_METHOD,
        **unknown: Any,
    ) -> None:
        if unknown:
            key = next(iter(unknown))
            raise ValueError(
                f"ShiftAddConfig has no key {key!r}; {nearest(key, ['rules', 'plan', 'state', 'dequantize'])}"
            )
        if (rules is None) == (plan is None):
            raise ValueError("give ShiftAddConfig either rules or a plan")
        if state not in STATES:
            raise ValueError(f"state must be 'latent' or 'packed', not {state!r}; {nearest(state, list(STATES))}")
        self.quant_method = quant_method
        self.rules = None if rules is None else [_as_rule(r) for r in rules]
        self.plan = Plan.from_dict(plan) if isinstance(plan, Mapping) else plan
        self.state = state
        self.dequantize = dequantize

    def to_dict(self) -> dict[str, Any]:
        """JSON form. A list of rules and not a mapping: config.json is written with sorted keys."""
        data: dict[str, Any] = {"quant_method": self.quant_method, "state": self.state}
        if self.rules is not None:
            data["rules"] = [r.to_dict() for r in self.rules]
        if self.plan is not None:
            data["plan"] = self.plan.to_dict(converted_only=True)
        return data

    def __iter__(self) -> Any:
        return iter(self.to_dict().items())


def _as_rule(value: Rule | Mapping[str, Any]) -> Rule:
    return value if isinstance(value, Rule) else Rule.from_dict(dict(value))


if QUANT_METHOD not in AUTO_QUANTIZATION_CONFIG_MAPPING:
    register_quantization_config(QUANT_METHOD)(ShiftAddConfig)
