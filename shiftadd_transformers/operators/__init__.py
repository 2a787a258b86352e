"""The operators: plain tensors in and out, torch only.

Each is a ``torch.library`` operator under ``shiftadd::`` whose default body is readable eager code; `reference` holds
the definitions that all implementations are held against.
"""

from .activation import quantize_rows_int8
from .adder import adder_linear, adder_linear_int8
from .bcq import bcq_codes, bcq_dequantize, bcq_fit, bcq_groups, bcq_linear
from .counts import (
    OpCounts,
    adder_linear_counts,
    bcq_linear_counts,
    bcq_lookup_counts,
    dense_linear_counts,
    matadd_counts,
    shift_add_linear_counts,
    shift_linear_counts,
)
from .matadd import matadd, matadd_right
from .packing import pack_codes, pack_planes, packed_width, unpack_codes, unpack_planes
from .po2 import (
    Po2Format,
    code_values,
    dequantize_codes,
    fit_exponent,
    from_po2_terms,
    group_count,
    po2_round,
    power_of_two,
    quantize_codes,
    signed_po2_terms,
)
from .shift import shift_linear
from .shift_add import shift_add_linear
from .ste import (
    denseshift_tensors_from,
    denseshift_weight,
    indicator_ste,
    po2_scale_ste,
    ps_tensors_from,
    ps_weight,
    sign_ste,
    straight_through,
)

__all__ = [
    "OpCounts",
    "Po2Format",
    "adder_linear",
    "adder_linear_counts",
    "adder_linear_int8",
    "bcq_codes",
    "bcq_dequantize",
    "bcq_fit",
    "bcq_groups",
    "bcq_linear",
    "bcq_linear_counts",
    "bcq_lookup_counts",
    "code_values",
    "dense_linear_counts",
    "denseshift_tensors_from",
    "denseshift_weight",
    "dequantize_codes",
    "fit_exponent",
    "from_po2_terms",
    "group_count",
    "indicator_ste",
    "matadd",
    "matadd_counts",
    "matadd_right",
    "pack_codes",
    "pack_planes",
    "packed_width",
    "po2_round",
    "po2_scale_ste",
    "power_of_two",
    "ps_tensors_from",
    "ps_weight",
    "quantize_codes",
    "quantize_rows_int8",
    "shift_add_linear",
    "shift_add_linear_counts",
    "shift_linear",
    "shift_linear_counts",
    "sign_ste",
    "signed_po2_terms",
    "straight_through",
    "unpack_codes",
    "unpack_planes",
]
