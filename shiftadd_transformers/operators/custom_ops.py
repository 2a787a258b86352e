"""Which torch operators are there? By name, for kernels that attach to them with ``register_kernel``."""

from __future__ import annotations

from torch.library import CustomOpDef

from .adder import _adder_linear, _adder_linear_int8, adder_input_gradient
from .adder_window import _adder_window
from .bcq import _bcq_linear
from .binary_attention import _binary_attention
from .head_distances import head_distances
from .matadd import _matadd, _matadd_right
from .shift import _shift_linear
from .shift_add import _shift_add_linear
from .token_convolution import _token_convolution

CUSTOM_OPS: dict[str, CustomOpDef] = {
    "shiftadd::adder_input_gradient": adder_input_gradient,
    "shiftadd::adder_linear": _adder_linear,
    "shiftadd::adder_linear_int8": _adder_linear_int8,
    "shiftadd::adder_window": _adder_window,
    "shiftadd::bcq_linear": _bcq_linear,
    "shiftadd::binary_attention": _binary_attention,
    "shiftadd::head_distances": head_distances,
    "shiftadd::matadd": _matadd,
    "shiftadd::matadd_right": _matadd_right,
    "shiftadd::shift_add_linear": _shift_add_linear,
    "shiftadd::shift_linear": _shift_linear,
    "shiftadd::token_convolution": _token_convolution,
}
