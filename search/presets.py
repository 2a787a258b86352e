"""What do ShiftAddNAS and ShiftAddViT choose from? Their operators, as spaces over a given model."""

from __future__ import annotations

from torch import nn

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
from .space import Space


def translation(model: nn.Module, *, kernel_size: int = 7) -> Space:
    """The block operators of ShiftAddNAS for an encoder-decoder, and feed-forward layers dense or shift.

    Seven operators per encoder self-attention: softmax, a token mixer (convolution, adder, shift-adder), or half and
    half. Four per decoder self-attention: softmax, or half and half. Cross-attentions stay.

    Args:
        model: Marian, BART, T5, Whisper, ...
        kernel_size: Tokens that a mixer sees; odd.

    Returns:
        The space.

    References:
        You et al., ShiftAddNAS, ICML 2022, the space for translation. Differs: widths, heads, numbers of layers and
        the span of encoder layers stay as the model has them; feed-forward layers may be shifts.
    """
    whole = [MixerSpec(op, kernel_size=kernel_size) for op in ("conv", "add", "shift_add")]
    halves = [MixerSpec(op, attention=True, kernel_size=kernel_size) for op in ("conv", "add", "shift_add")]
    return Space.of(
        model,
        [
            choose([SoftmaxSpec(), *whole, *halves], "encoder.*", role="attn.self"),
            choose([SoftmaxSpec(), *halves], "decoder.*", role="attn.self"),
            choose([DenseSpec(), ShiftSpec()], role="mlp.*", together="layer"),
        ],
    )


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
