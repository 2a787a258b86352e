"""How many operations does one ATen operator perform?

One table entry per operator that computes. Conventions, the same for every operand type:

* a sum of ``t`` values costs ``t - 1`` adds; a comparison (maximum, ReLU, one bound of a clamp) costs one
  add;
* a division costs one multiplication; sign changes and absolute values are free;
* a smooth function of one variable (exp, erf, tanh, GELU, SiLU, 1/sqrt, ...) costs one look-up, one
  multiplication and one add: a table with linear interpolation, which is how accelerators evaluate them;
* attention is charged for the full square even under a causal mask, as dense kernels compute it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from torch import Tensor

from ..operators.counts import SMOOTH, OpCounts, dense_linear_counts, softmax_counts
from .report import AttentionShape, LinearShape

MULTIPLY, ADD, FREE = OpCounts(multiply=1), OpCounts(add=1), OpCounts()


@dataclass(frozen=True)
class Work:
    """What one call did.

    Attributes:
        kind: Kind of the row that it is charged to.
        counts: Its operations.
        pair: For a matrix product, the two operands; a stored one makes the product a dense layer.
        linear: Its shape, if the second operand is the weight.
        gathered: Only as many bytes of the stored operand are read as the output has.
        attention: Its shape, if it is one.
    """

    kind: str
    counts: OpCounts
    pair: tuple[Tensor, Tensor] | None = None
    linear: LinearShape | None = None
    gathered: bool = False
    attention: AttentionShape | None = None


Formula = Callable[[Sequence[Any], Mapping[str, Any], Tensor], Work]


def _product(a: Tensor, b: Tensor, m: int, n: int, k: int, bias: bool = False, times: int = 1) -> Work:
    shape = LinearShape(m * times, n, k, bias)
    return Work("matmul", dense_linear_counts(m, n, k, bias) * times, (a, b), shape)


def _mm(args: Sequence[Any], kwargs: Mapping[str, Any], out: Tensor) -> Work:
    a, b = args[:2]
    return _product(a, b, a.shape[0], b.shape[1], a.shape[1])


def _addmm(args: Sequence[Any], kwargs: Mapping[str, Any], out: Tensor) -> Work:
    _, a, b = args[:3]
    return _product(a, b, a.shape[0], b.shape[1], a.shape[1], bias=True)


def _bmm(args: Sequence[Any], kwargs: Mapping[str, Any], out: Tensor) -> Work:
    a, b = args[:2]
    return _product(a, b, a.shape[1], b.shape[2], a.shape[2], times=a.shape[0])


def _baddbmm(args: Sequence[Any], kwargs: Mapping[str, Any], out: Tensor) -> Work:
    _, a, b = args[:3]
    return _product(a, b, a.shape[1], b.shape[2], a.shape[2], bias=True, times=a.shape[0])


def _mv(args: Sequence[Any], kwargs: Mapping[str, Any], out: Tensor) -> Work:
    a, b = args[:2]
    return _product(b, a, 1, a.shape[0] if a.ndim == 2 else 1, a.shape[-1])


def _linear(args: Sequence[Any], kwargs: Mapping[str, Any], out: Tensor) -> Work:
    x, weight = args[:2]
    n, k = weight.shape
    return _product(x, weight, x.numel() // max(k, 1), n, k, len(args) > 2 and args[2] is not None)


def _convolution(args: Sequence[Any], kwargs: Mapping[str, Any], out: Tensor) -> Work:
    x, weight, bias = args[:3]
    transposed, n = args[6], out.shape[1]
    taps = prod(weight.shape[1:])
    if transposed:  # every input value meets every tap of its output channels
        products = x.numel() * taps
        adds = products - (0 if bias is not None else out.numel())
        return Work("convolution", OpCounts(multiply=products, add=adds))
    m = out.numel() // max(n, 1)
    shape = LinearShape(m, n, taps, bias is not None)
    return Work("convolution", dense_linear_counts(m, n, taps, bias is not None), linear=shape)


def _softmax(log: bool) -> Formula:
    def formula(args: Sequence[Any], kwargs: Mapping[str, Any], out: Tensor) -> Work:
        width = out.shape[args[1]] if out.ndim else 1
        return Work("softmax", softmax_counts(out.numel() // max(width, 1), width, log))

    return formula


def _attention(args: Sequence[Any], kwargs: Mapping[str, Any], out: Tensor) -> Work:
    q, k, v = args[:3]
    heads, queries, keys = prod(q.shape[:-2]), q.shape[-2], k.shape[-2]
    scores = dense_linear_counts(queries, keys, q.shape[-1]) + MULTIPLY * (queries * keys)
    masked = any(isinstance(a, Tensor) for a in args[3:]) or isinstance(kwargs.get("attn_mask"), Tensor)
    mask = ADD * (queries * keys if masked else 0)
    mixed = dense_linear_counts(queries, v.shape[-1], keys)
    causal = any(a is True for a in (*args[3:], kwargs.get("is_causal")))  # no other flag is set without gradients
    shape = AttentionShape(prod(q.shape[:-3]), prod(q.shape[-3:-2]), q.shape[-1], queries, keys, causal and queries > 1)
    counts = (scores + mask + softmax_counts(queries, keys) + mixed) * heads
    return Work("attention", counts, attention=shape)


def norm_counts(rows: int, width: int, centred: bool, scale: bool, shift: bool) -> OpCounts:
    """Mean (if centred), mean square, inverse root, and the affine part."""
    mean = ADD * (2 * width - 1) + MULTIPLY if centred else FREE
    square = MULTIPLY * (width + 1) + ADD * width + SMOOTH
    affine = MULTIPLY * (width * (1 + scale)) + ADD * (width * shift)
    return (mean + square + affine) * rows if width else FREE


def _layer_norm(args: Sequence[Any], kwargs: Mapping[str, Any], out: Tensor) -> Work:
    width = prod(args[1])
    has = [len(args) > i and args[i] is not None for i in (2, 3)]
    return Work("norm", norm_counts(out.numel() // max(width, 1), width, True, *has))


def _rms_norm(args: Sequence[Any], kwargs: Mapping[str, Any], out: Tensor) -> Work:
    width = prod(args[1])
    scale = len(args) > 2 and args[2] is not None
    return Work("norm", norm_counts(out.numel() // max(width, 1), width, False, scale, False))


def _group_norm(args: Sequence[Any], kwargs: Mapping[str, Any], out: Tensor) -> Work:
    rows = out.shape[0] * args[6]
    has = [args[i] is not None for i in (1, 2)]
    return Work("norm", norm_counts(rows, out.numel() // max(rows, 1), True, *has))


def _batch_norm(args: Sequence[Any], kwargs: Mapping[str, Any], out: Tensor) -> Work:
    # In evaluation the statistics are constants: one factor and one offset per channel, applied to every
    # element.
    channels = out.shape[1]
    return Work("norm", (MULTIPLY + ADD) * (out.numel() + channels) + SMOOTH * channels)


def _per_output(kind: str, cost: OpCounts) -> Formula:
    return lambda args, kwargs, out: Work(kind, cost * out.numel())


def _sum_like(args: Sequence[Any], kwargs: Mapping[str, Any], out: Tensor) -> Work:
    values = args[0].numel() if isinstance(args[0], Tensor) else out.numel()
    return Work("reduction", ADD * max(values - out.numel(), 0))


def _mean(args: Sequence[Any], kwargs: Mapping[str, Any], out: Tensor) -> Work:
    return Work("reduction", _sum_like(args, kwargs, out).counts + MULTIPLY * out.numel())


def _variance(args: Sequence[Any], kwargs: Mapping[str, Any], out: Tensor) -> Work:
    values = args[0].numel()
    return Work("reduction", _mean(args, kwargs, out).counts * 2 + (MULTIPLY + ADD) * values)


def _vector_norm(args: Sequence[Any], kwargs: Mapping[str, Any], out: Tensor) -> Work:
    counts = _sum_like(args, kwargs, out).counts + MULTIPLY * args[0].numel() + SMOOTH * out.numel()
    return Work("reduction", counts)


def _max_pool(args: Sequence[Any], kwargs: Mapping[str, Any], out: Tensor) -> Work:
    return Work("reduction", ADD * (out.numel() * (prod(args[1]) - 1)))


def _scaled_add(args: Sequence[Any], kwargs: Mapping[str, Any], out: Tensor) -> Work:
    scaled = kwargs.get("alpha", 1) not in (1, -1)
    return Work("elementwise", (ADD + MULTIPLY * int(scaled)) * out.numel())


def _pow(args: Sequence[Any], kwargs: Mapping[str, Any], out: Tensor) -> Work:
    exponent = args[1]
    whole = not isinstance(exponent, Tensor) and exponent in (1, 2, 3, 4)
    return Work("elementwise", (MULTIPLY * (int(exponent) - 1) if whole else SMOOTH) * out.numel())


def _clamp(args: Sequence[Any], kwargs: Mapping[str, Any], out: Tensor) -> Work:
    bounds = [*args[1:3], *kwargs.values()]
    return Work("elementwise", ADD * (out.numel() * sum(bound is not None for bound in bounds)))


def _embedding(args: Sequence[Any], kwargs: Mapping[str, Any], out: Tensor) -> Work:
    return Work("embedding", FREE, gathered=True)


_SMOOTH = (
    "exp exp2 expm1 log log2 log10 log1p sin cos tan sinh cosh asin acos atan erf erfc erfinv sqrt rsqrt"
    " log_sigmoid_forward logit digamma lgamma"
)
_ACTIVATIONS = "gelu silu mish tanh sigmoid softplus elu celu selu hardswish hardsigmoid"

FORMULAS: dict[str, Formula] = {
    **dict.fromkeys(("mm", "_int_mm"), _mm),
    **dict.fromkeys(("addmm", "_addmm_activation"), _addmm),
    "bmm": _bmm,
    "baddbmm": _baddbmm,
    **dict.fromkeys(("mv", "dot", "vdot"), _mv),
    **dict.fromkeys(("linear", "mkldnn_linear", "_mkldnn_linear"), _linear),
    **dict.fromkeys(("convolution", "_convolution", "cudnn_convolution"), _convolution),
    **dict.fromkeys(("_softmax", "softmax", "_safe_softmax"), _softmax(log=False)),
    **dict.fromkeys(("_log_softmax", "log_softmax"), _softmax(log=True)),
    **dict.fromkeys(
        (
            "_scaled_dot_product_flash_attention_for_cpu",
            "_scaled_dot_product_flash_attention",
            "_scaled_dot_product_efficient_attention",
            "_scaled_dot_product_cudnn_attention",
            "_scaled_dot_product_fused_attention_overrideable",
            "scaled_dot_product_attention",
        ),
        _attention,
    ),
    **dict.fromkeys(("native_layer_norm", "layer_norm"), _layer_norm),
    **dict.fromkeys(("_fused_rms_norm", "rms_norm"), _rms_norm),
    "native_group_norm": _group_norm,
    **dict.fromkeys(("native_batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm"), _batch_norm),
    **dict.fromkeys(_SMOOTH.split(), _per_output("elementwise", SMOOTH)),
    **dict.fromkeys(_ACTIVATIONS.split(), _per_output("activation", SMOOTH)),
    **dict.fromkeys(("relu", "threshold"), _per_output("activation", ADD)),
    **dict.fromkeys(("hardtanh", "relu6"), _per_output("activation", ADD * 2)),
    **dict.fromkeys(("leaky_relu", "prelu", "_prelu_kernel"), _per_output("activation", ADD + MULTIPLY)),
    "glu": _per_output("activation", SMOOTH + MULTIPLY),
    **dict.fromkeys(("add", "sub", "rsub"), _scaled_add),
    **dict.fromkeys(
        ("maximum", "minimum", "fmax", "fmin", "floor", "ceil", "round", "trunc"),
        _per_output("elementwise", ADD),
    ),
    **dict.fromkeys(
        ("mul", "div", "reciprocal", "square", "true_divide", "fmod", "remainder"),
        _per_output("elementwise", MULTIPLY),
    ),
    **dict.fromkeys(("addcmul", "addcdiv"), _per_output("elementwise", MULTIPLY * 2 + ADD)),
    "lerp": _per_output("elementwise", MULTIPLY + ADD * 2),
    "pow": _pow,
    **dict.fromkeys(("clamp", "clamp_min", "clamp_max"), _clamp),
    **dict.fromkeys(("sum", "amax", "amin", "max", "min", "argmax", "argmin"), _sum_like),
    "cumsum": _per_output("reduction", ADD),
    "cumprod": _per_output("reduction", MULTIPLY),
    "prod": lambda args, kwargs, out: Work("reduction", MULTIPLY * max(args[0].numel() - out.numel(), 0)),
    **dict.fromkeys(("mean", "avg_pool1d", "avg_pool2d", "_adaptive_avg_pool2d"), _mean),
    **dict.fromkeys(("var", "std", "var_mean", "std_mean"), _variance),
    **dict.fromkeys(("linalg_vector_norm", "norm"), _vector_norm),
    "max_pool2d_with_indices": _max_pool,
    **dict.fromkeys(("embedding", "embedding_renorm"), _embedding),
}

_COPIES = """
    clone copy _to_copy contiguous cat stack index index_select gather scatter slice_scatter select_scatter
    index_put index_copy masked_scatter masked_fill where repeat repeat_interleave roll flip tril triu
    constant_pad_nd fill zero new_zeros new_ones new_full new_empty new_empty_strided zeros_like ones_like
    full_like empty_like abs neg sign sgn nan_to_num lift lift_fresh resize set one_hot im2col
    _unsafe_index _unsafe_view _reshape_alias _reshape_copy pixel_shuffle pixel_unshuffle
    upsample_nearest1d upsample_nearest2d dropout native_dropout alpha_dropout bernoulli
"""
COPIES = frozenset(_COPIES.split())


def base_name(func: Any) -> str | None:
    """The name of an ATen operator without namespace and in-place mark; None for other libraries' operators.

    Examples:
        >>> import torch
        >>> base_name(torch.ops.aten.add_.Tensor)
        'add'
    """
    namespace, _, name = str(func.overloadpacket).partition(".")
    return name.removesuffix("_") if namespace == "aten" else None
