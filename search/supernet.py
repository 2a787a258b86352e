"""How are thousands of plans compared without training each? One network that holds them all.

A supernet is a model in which every place that a space decides holds all of its choices. The operators of a linear
layer share one stored tensor (`views`), smaller sizes are the leading part of the larger ones (`leading`), and
attention cores are small and stand side by side. Choosing a candidate makes the model compute its plan; extracting it
gives the converted model with these weights.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from shiftadd_transformers.convert import outputs_read
from shiftadd_transformers.extents import Cuts
from shiftadd_transformers.hf import convert_
from shiftadd_transformers.hf.attention import use_cores_
from shiftadd_transformers.layers.attention import set_heads_
from shiftadd_transformers.plan import Plan
from shiftadd_transformers.specs import DenseSpec, Spec, nearest

from .choices import Choice, ChoiceCore, ChoiceLinear
from .decisions import SpecDecision
from .leading import LeadingLayers
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
        You et al., ShiftAddNAS, ICML 2022, heterogeneous weight sharing; Wang et al., HAT, ACL 2020, sizes as leading
        parts. Differs: the dense layers take part in the sharing; every operator has a bias of its own, and adders
        and cascades their scales and offsets.

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
        self._choices = {site: self._hold(site, specs) for site, specs in _offers(space).items()}
        if any(isinstance(choice, ChoiceCore) for choice in self._choices.values()):
            use_cores_(self.model)
        for stack in (e.name for e in space.extents.values() if e.kind == "depth"):
            self.model.set_submodule(stack, LeadingLayers(cast(nn.ModuleList, self.model.get_submodule(stack))))
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
        self._resize(self.space.cuts(candidate))
        return self

    def extract(self, candidate: Sequence[int]) -> Any:
        """The converted (latent) model of a candidate, with copies of the supernet's weights.

        It computes what the supernet computes after `choose(candidate)`; it is trained, packed and saved like any.
        """
        model, cuts = self.choose(candidate)._dense(), self.space.cuts(candidate)
        convert_(model, self.space.to_plan(candidate), lambda name, dense, _: self._layer(name).extracted(dense))
        for site, choice in self._choices.items():
            if isinstance(choice, ChoiceCore) and choice.active is not None and not cuts.lacks(site):
                model.get_submodule(site).core.load_state_dict(choice.active.state_dict())
        return model.train(self.model.training)

    def _resize(self, cuts: Cuts) -> None:
        """Let the model compute with the leading part of what is cut."""
        shapes = cuts.shapes_after({name: entry.shape for name, entry in self.space.frame.items()})
        for name, extent in self.space.extents.items():
            if extent.kind == "depth":
                self.model.get_submodule(name).depth = cuts.sizes.get(name, extent.size)
            elif extent.kind == "heads":
                set_heads_(self.model.get_submodule(name), cuts.sizes.get(name, extent.size))
        left = [(site, choice, shapes[site]) for site, choice in self._choices.items() if site in shapes]
        for _, choice, (h, _) in left:
            if isinstance(choice, ChoiceCore):
                choice.left = h
        for site, choice, (n, k) in left:  # now that cores know what they read
            if isinstance(choice, ChoiceLinear):
                choice.size, choice.outputs = (self._read(site, n), k), n

    def _read(self, site: str, outputs: int) -> int:
        """How many outputs of a layer are read: an attention's core may leave queries and keys."""
        attention = self._choices.get(self.space.readers.get(site, ""))
        core = attention.active if isinstance(attention, ChoiceCore) else None
        return outputs_read(core, outputs) if core is not None else outputs

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
        """A dense model of full size with the supernet's weights."""
        # A deep copy takes what its memo holds in the place of what it meets.
        memo: dict[int, Any] = {
            id(choice): choice.dense() for choice in self._choices.values() if isinstance(choice, ChoiceLinear)
        }
        model = copy.deepcopy(self.model, memo)
        for name, extent in self.space.extents.items():
            if extent.kind == "depth":
                model.set_submodule(name, model.get_submodule(name).whole())
            elif extent.kind == "heads":
                set_heads_(model.get_submodule(name), extent.size)
        for site, choice in self._choices.items():
            if isinstance(choice, ChoiceCore):
                del model.get_submodule(site).core
        if self._attention is not None:
            model.set_attn_implementation(self._attention)
        return model


def _offers(space: Space) -> dict[str, tuple[Spec, ...]]:
    """Each module of which something is decided, with its operators."""
    sized = (name for extent in space.extents.values() for name in (*extent.rows, *extent.columns))
    offers: dict[str, tuple[Spec, ...]] = dict.fromkeys(sized, (DenseSpec(),))
    for decision in space.decisions:
        if isinstance(decision, SpecDecision):
            offers.update(dict.fromkeys(decision.sites, decision.values))
    return offers
