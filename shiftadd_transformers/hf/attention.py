"""How do attention cores get into transformers' models?

Every model that follows the attention interface hands queries, keys and values to a function that its config names.
Ours is registered as "shiftadd": it calls the core of the attention module that asks, and computes ordinary attention
where there is none. The mask function of the same name is as important: without it, a causal model would be handed no
mask, and would see the future.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from ..layers.attention import AttentionCore, Visibility
from ..layers.attention.softmax import dot_product_softmax

IMPLEMENTATION = "shiftadd"

_seen: dict[nn.Module, Tensor] | None = None
"""Attention weights of the forward that `attention_maps` runs; None at all other times."""


def shiftadd_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    position_bias: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The function behind transformers' attention interface.

    Args:
        module: The attention module that calls; its `core`, if it has one, computes.
        query: `[B, H, T, E]`.
        key: `[B, Hkv, S, E]`.
        value: `[B, Hkv, S, E]`.
        attention_mask: bool, True where a target may see a source; or floats that are added to the scores.
        dropout: Of ordinary attention. Cores do without it.
        scaling: Of dot products.
        is_causal: Overrides the module's own.
        position_bias: Added to the scores.
        kwargs: What else a model passes on; ordinary attention gets it.

    Returns:
        `[B, T, H, E]`, and None in the place of weights (see `attention_maps`).
    """
    core = getattr(module, "core", None)
    core = core.active if isinstance(core, AttentionCore) else None
    if core is not None or _seen is not None:
        arguments = _core_arguments(module, query, key, value, attention_mask, position_bias, scaling, is_causal)
        if _seen is not None:
            _seen[module] = _weights(core, *arguments)
        if core is not None:
            return core(*arguments).transpose(1, 2), None
    settings: dict[str, Any] = {"dropout": dropout, "scaling": scaling, "is_causal": is_causal}
    if position_bias is not None:
        settings["position_bias"] = position_bias
    result: tuple[Tensor, None] = sdpa_attention_forward(
        module, query, key, value, attention_mask, **settings, **kwargs
    )
    return result


def attention_maps(model: PreTrainedModel, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
    """How much each source token counts for each target, layer by layer, in one forward.

    Softmax probabilities of ordinary and adder attention; scaled agreements of codes where a linear attention has no
    probabilities; the kernel's magnitudes of a token mixer.

    Args:
        model: Dense or converted, of a family with the attention interface.
        args: The model's inputs.
        kwargs: Its keyword inputs.

    Returns:
        Name of the attention module → `[B, H, T, S]`, in the order of execution.

    Raises:
        ValueError: The model does not follow the attention interface.
    """
    global _seen
    names = {module: name for name, module in model.named_modules()}
    with _implementation(model), torch.no_grad():
        _seen = {}
        try:
            model(*args, **kwargs)
            return {names[module]: weights for module, weights in _seen.items()}
        finally:
            _seen = None


def has_cores(model: nn.Module) -> bool:
    """Whether any attention of the model has a core of ours."""
    return any(isinstance(module, AttentionCore) for module in model.modules())


def require_attention_interface(model: nn.Module) -> None:
    """Insist that the model would call our attention function.

    Raises:
        ValueError: It computes attention by itself.
    """
    if not (isinstance(model, PreTrainedModel) and model._can_set_attn_implementation()):
        raise ValueError(
            f"{type(model).__name__} computes attention by itself and would never call another core: it does not "
            "follow transformers' attention interface. Convert its linear layers, or use a family that does "
            "(ViT, DeiT, BERT, Marian, Llama, ...)"
        )


def use_cores_(model: PreTrainedModel) -> PreTrainedModel:
    """Make a model call its cores, in place."""
    require_attention_interface(model)
    model.set_attn_implementation(IMPLEMENTATION)
    return model


def _core_arguments(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    position_bias: Tensor | None,
    scaling: float | None,
    is_causal: bool | None,
) -> tuple[Tensor, Tensor, Tensor, Visibility, float]:
    """Our own conventions: all heads spelled out, queries not yet scaled, mask apart from bias."""
    own = getattr(module, "scaling", None)
    if scaling == 1.0 and own not in (None, 1.0):  # OPT and Whisper hand over scaled queries
        query, scaling = query / own, own
    heads = query.shape[1]
    key, value = (t.repeat_interleave(heads // t.shape[1], dim=1) for t in (key, value))
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    return query, key, value, _visibility(module, mask, position_bias, is_causal), scaling


def _visibility(
    module: nn.Module, mask: Tensor | None, position_bias: Tensor | None, is_causal: bool | None
) -> Visibility:
    causal = bool(getattr(module, "is_causal", False)) if is_causal is None else is_causal
    if mask is not None and mask.dtype != torch.bool:
        position_bias = mask if position_bias is None else position_bias + mask
        mask = mask > torch.finfo(mask.dtype).min / 2
    return Visibility(mask, causal, position_bias)


def _weights(
    core: AttentionCore | None, query: Tensor, key: Tensor, value: Tensor, visibility: Visibility, scaling: float
) -> Tensor:
    """The core's own; where there is none, the probabilities of ordinary attention."""
    if core is None:
        return dot_product_softmax(query, key, visibility, scaling)
    return core.weights(query, key, value, visibility, scaling)


@contextmanager
def _implementation(model: PreTrainedModel) -> Iterator[None]:
    """Our function behind the interface, for the time being."""
    require_attention_interface(model)
    before = model.config._attn_implementation
    model.set_attn_implementation(IMPLEMENTATION)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


AttentionInterface.register(IMPLEMENTATION, shiftadd_attention)
AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)
