"""What do ShiftAddNAS and ShiftAddViT choose from? Their operators, as spaces over a given model."""

from __future__ import annotations

from itertools import groupby

from torch import nn

from shiftadd_transformers.extents import Extent, extents
from shiftadd_transformers.sites import position
from shiftadd_transformers.specs import (
    AdderAttentionSpec,
    AdderSpec,
    BinaryLinearSpec,
    DenseSpec,
    MixerSpec,
    MixtureSpec,
    ShiftSpec,
    SoftmaxSpec,
)

from .decisions import choose
from .sizes import Sizes, depth, heads, widths
from .space import Space


def translation(model: nn.Module, *, kernel_size: int = 7, sizes: bool = False) -> Space:
    """The block operators of ShiftAddNAS for an encoder-decoder, and feed-forward layers dense or shift.

    Seven operators per encoder self-attention: softmax, a token mixer (convolution, adder, shift-adder), or half and
    half. Four per decoder self-attention: softmax, or half and half. Cross-attentions stay.

    Args:
        model: Marian, BART, T5, Whisper, ...
        kernel_size: Tokens that a mixer sees; odd.
        sizes: Also search those of HAT: feed-forwards of a third, two thirds or all of their width, half of the heads
            or all, and any number of decoder layers.

    Returns:
        The space.

    References:
        You et al., ShiftAddNAS, ICML 2022, the space for translation; Wang et al., HAT, ACL 2020. Differs: the width
        of the tokens and the span of encoder layers stay as the model has them; feed-forward layers may be shifts.
    """
    whole = [MixerSpec(op, kernel_size=kernel_size) for op in ("conv", "add", "shift_add")]
    halves = [MixerSpec(op, attention=True, kernel_size=kernel_size) for op in ("conv", "add", "shift_add")]
    return Space.of(
        model,
        [
            choose([SoftmaxSpec(), *whole, *halves], "encoder.*", role="attn.self"),
            choose([SoftmaxSpec(), *halves], "decoder.*", role="attn.self"),
            choose([DenseSpec(), ShiftSpec()], role="mlp.*", together="layer"),
            *(_sizes(model) if sizes else []),
        ],
    )


def _sizes(model: nn.Module) -> list[Sizes]:
    """HAT's, for each stack of a model."""
    found = sorted(extents(model)[0].values(), key=_place)
    written = []
    for (kind, stack, own), _ in groupby(found, key=_place):
        if kind == "width":
            written.append(widths(sorted({max(1, own // 3), max(1, 2 * own // 3), own}), f"{stack}.*"))
        elif kind == "heads" and own % 4 == 0:  # half of half of them may be a mixer's
            written.append(heads([own // 2, own], f"{stack}.*"))
        elif kind == "depth" and "decoder" in stack:
            written.append(depth(range(1, own + 1), stack))
    return written


def _place(extent: Extent) -> tuple[str, str, int]:
    stack = extent.name if extent.kind == "depth" else position(extent.name)[0]
    return extent.kind, stack, extent.size


def vit(model: nn.Module, *, kernel_size: int = 9) -> Space:
    """The operators of ShiftAddViT for an encoder, layer by layer.

    Cores: softmax, linear attention by bits, softmax over L1 distances. Projections: dense or shift. Feed-forward:
    dense, shift (4 bits), sums of two powers of two, adder with normalisation, or a mixture of dense and shift.

    Args:
        model: ViT, DeiT, DINOv2, BERT, ...
        kernel_size: Tokens that the convolution beside linear attention sees; odd.

    Returns:
        The space.

    References:
        You et al., ShiftAddViT, NeurIPS 2023. Differs: the paper fixes one choice for all layers.
    """
    feed_forward = [DenseSpec(), ShiftSpec(bits=4), ShiftSpec(bits=4, terms=2), AdderSpec(norm=True), MixtureSpec()]
    return Space.of(
        model,
        [
            choose([SoftmaxSpec(), BinaryLinearSpec(kernel_size=kernel_size), AdderAttentionSpec()], role="attn.self"),
            choose([DenseSpec(), ShiftSpec()], role="attn.*", together="layer"),
            choose(feed_forward, role="mlp.*", together="layer"),
        ],
    )
