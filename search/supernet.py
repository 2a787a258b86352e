"""How are thousands of plans compared without training each? One network that holds them all.

A supernet is a model in which every place that a space decides holds all of its choices. The operators of a linear
layer share one stored tensor (`views`); attention cores are small and stand side by side. Choosing a candidate makes
the model compute its plan; extracting it gives the converted model with these weights.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from shiftadd_transformers.hf import convert_
from shiftadd_transformers.hf.attention import use_cores_
from shiftadd_transformers.plan import Plan
from shiftadd_transformers.specs import Spec, nearest

from .choices import Choice, ChoiceCore, ChoiceLinear
from .decisions import SpecDecision
from .objectives import Direction, Objective
from .resolve import is_attention
from .space import Space

Sharing = Literal["heterogeneous", "separate"]


class Supernet:
    """All plans of a space in one model.

    Args:
        model: Dense; a copy of it becomes the supernet.
        space: Made for this model.
        sharing: "heterogeneous" stores one matrix per linear layer; "separate" one per operator, which is what
            sharing is compared with.

    Attributes:
        model: The network. It computes the plan that was chosen last, trains and saves like any other.

    Raises:
        ValueError: The space is for another model, or an operator does not fit a layer.

    References:
        You et al., ShiftAddNAS, ICML 2022, heterogeneous weight sharing; Wang et al., HAT, ACL 2020. Differs: the
        dense layers take part in the sharing; every operator has a bias of its own, and adders and cascades their
        scales and offsets.

    >>> from search import choose
    >>> toy = nn.Sequential(nn.Linear(8, 8))
    >>> supernet = Supernet(toy, Space.of(toy, [choose(["dense", "shift", "adder"], "*")]))
    >>> supernet.choose((1,)).model(torch.zeros(2, 8)).shape
    torch.Size([2, 8])
    >>> supernet.extract((1,))[0].spec
    ShiftSpec(bits=4, terms=1, group_size=None, parametrization='q', zero=None, activation_bits=None)
    """

    def __init__(self, model: nn.Module, space: Space, *, sharing: Sharing = "heterogeneous") -> None:
        if sharing not in get_args(Sharing):
            raise ValueError(f"sharing {sharing!r} is unknown; {nearest(str(sharing), list(get_args(Sharing)))}")
        self.space, self.sharing = space, sharing
        self.dense_parameters = sum(p.numel() for p in model.parameters())
        self.model: Any = copy.deepcopy(model)
        self._attention = getattr(getattr(model, "config", None), "_attn_implementation", None)
        self._choices = {site: self._hold(site, specs) for site, specs in _offers(space)}
        if any(isinstance(choice, ChoiceCore) for choice in self._choices.values()):
            use_cores_(self.model)
        self.choose(space.repair([0] * len(space.decisions)))

    @property
    def parameters_ratio(self) -> float:
        """Its trainable numbers in those of the dense model."""
        return sum(p.numel() for p in self.model.parameters()) / self.dense_parameters

    def choose(self, candidate: Sequence[int]) -> Supernet:
        """Let the model compute a candidate's plan from now on."""
        for decision, choice in zip(self.space.decisions, self.space.canonical(candidate), strict=True):
            for site in decision.sites if isinstance(decision, SpecDecision) else ():
                self._choices[site].chosen = choice
        return self

    def extract(self, candidate: Sequence[int]) -> Any:
        """The converted (latent) model of a candidate, with copies of the supernet's weights.

        It computes what the supernet computes after `choose(candidate)`; it is trained, packed and saved like any.
        """
        self.choose(candidate)
        model = self._dense()
        convert_(model, self.space.to_plan(candidate), lambda name, dense, _: self._layer(name).extracted(dense))
        for site, choice in self._choices.items():
            if isinstance(choice, ChoiceCore) and choice.active is not None:
                model.get_submodule(site).core.load_state_dict(choice.active.state_dict())
        return model.train(self.model.training)

    def extract_plan(self, plan: Plan) -> Any:
        """The model of a plan of the space."""
        return self.extract(self.space.from_plan(plan))

    def objective(
        self,
        name: str,
        score: Callable[[Any], float],
        direction: Direction = "minimise",
        *,
        unit: str = "",
        budget: float | None = None,
    ) -> Objective:
        """What a plan's model is worth, judged by the supernet's weights.

        Args:
            name: Of the objective.
            score: Model to number: a validation loss, BLEU, top-1. It gets an extracted model in evaluation mode.
            direction: Whether less or more is better.
            unit: For people.
            budget: The worst value that is acceptable.
        """
        return Objective(name, lambda plan: score(self.extract_plan(plan).eval()), direction, unit, budget)

    def mismatch(self) -> Tensor:
        """How far the shared tensors are from the distributions that adders expect: the mean over these layers."""
        layers = [choice for choice in self._choices.values() if isinstance(choice, ChoiceLinear)]
        found = [value for layer in layers for value in layer.mismatches()]
        return torch.stack(found).mean() if found else torch.zeros(())

    def _hold(self, site: str, specs: tuple[Spec, ...]) -> Choice:
        """Put all choices in the place of a module."""
        module = self.model.get_submodule(site)
        if is_attention(self.space.frame[site]):
            module.core = ChoiceCore.of(site, self.model, self.space.frame[site], specs)
            return cast(Choice, module.core)
        choice = ChoiceLinear(module, specs, shared=self.sharing == "heterogeneous")
        self.model.set_submodule(site, choice)
        return choice

    def _layer(self, name: str) -> ChoiceLinear:
        return cast(ChoiceLinear, self._choices[name])

    def _dense(self) -> Any:
        """A dense model with the supernet's weights."""
        # A deep copy takes what its memo holds in the place of what it meets.
        memo: dict[int, Any] = {
            id(choice): choice.dense() for choice in self._choices.values() if isinstance(choice, ChoiceLinear)
        }
        model = copy.deepcopy(self.model, memo)
        for site, choice in self._choices.items():
            if isinstance(choice, ChoiceCore):
                del model.get_submodule(site).core
        if self._attention is not None:
            model.set_attn_implementation(self._attention)
        return model


def _offers(space: Space) -> Iterator[tuple[str, tuple[Spec, ...]]]:
    """Each decided module with its choices."""
    for decision in space.decisions:
        if isinstance(decision, SpecDecision):
            yield from ((site, decision.values) for site in decision.sites)
