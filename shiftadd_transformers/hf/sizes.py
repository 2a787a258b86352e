"""What does a model's config say once the model is smaller? The truth, as far as it has words for it.

A config has one number of layers per stack and one width for the feed-forwards of a stack, or of the model. Widths that
differ from layer to layer, and heads, which many configs cannot say without changing how wide they are, are in the
plan alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from ..extents import Cuts, extents

_LAYERS = {"encoder": ("encoder_layers", "num_layers"), "decoder": ("decoder_layers", "num_decoder_layers")}
_LAYERS_OF_ONE_STACK: tuple[str, ...] = ("num_hidden_layers",)
_LISTS = ("layer_types",)
_WIDTHS = {
    "encoder_ffn_dim": "encoder",
    "decoder_ffn_dim": "decoder",
    **dict.fromkeys(("intermediate_size", "ffn_dim", "d_ff", "n_inner", "hidden_dim"), ""),
}
"""Name in a config → the stack whose feed-forwards it speaks of; all of them if empty."""


class Sizes:
    """A model's sizes before it becomes smaller, to be told to its config afterwards.

    Args:
        model: Before that.
        sizes: What will be smaller, as in a plan.
    """

    def __init__(self, model: nn.Module, sizes: Mapping[str, int]) -> None:
        self.before = extents(model)[0] if sizes else {}
        self.cuts = Cuts.of(model, sizes)

    def tell_(self, model: PreTrainedModel) -> None:
        """Let the model's config say its numbers of layers, and its widths where they are all the same."""
        for stack, depth in self.cuts.of_kind("depth").items():
            for config in _configs(model, stack):
                _tell_depth_(config, stack, self.before[stack].size, depth)
        widths = self.cuts.of_kind("width")
        for config in {id(config): config for name in widths for config in _configs(model, name)}.values():
            self._tell_widths_(config)

    def _tell_widths_(self, config: Any) -> None:
        widths = [e for e in self.before.values() if e.kind == "width" and not self.cuts.lacks(e.name)]
        for word, stack in _WIDTHS.items():
            spoken_of = [e for e in widths if not stack or stack in e.name.split(".")]
            new = {self.cuts.sizes.get(e.name, e.size) for e in spoken_of}
            if len(new) == 1 and {e.size for e in spoken_of} == {getattr(config, word, None)}:
                setattr(config, word, *new)


def _tell_depth_(config: Any, stack: str, old: int, new: int) -> None:
    if hasattr(config, "stage_names"):
        return  # a backbone's config also names layers; the plan says how many there are
    words = _LAYERS_OF_ONE_STACK
    if getattr(config, "is_encoder_decoder", False):
        words = next((known for part, known in _LAYERS.items() if part in stack.split(".")), words)
    for word in words:
        if getattr(config, word, None) == old:
            setattr(config, word, new)
    for word in _LISTS:
        listed = getattr(config, word, None)
        if listed is not None and len(listed) == old:
            setattr(config, word, listed[:new])


def _configs(model: PreTrainedModel, name: str) -> Iterator[Any]:
    """The model's config, and those that parts of the model around a module have for themselves."""
    found: dict[int, Any] = {}
    parts = name.split(".")
    for length in range(len(parts)):
        module: nn.Module = model.get_submodule(".".join(parts[:length]))
        config = getattr(module, "config", None)
        if config is not None:
            found[id(config)] = config
    yield from found.values()
