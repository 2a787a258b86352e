"""What exactly is an 8-bit activation?

Every integer kernel, on any target, has to produce the codes and scales of :func:`quantize_rows_int8` to the bit, so
each step is an IEEE float32 operation with one rounding and the order is part of the definition.
"""

from __future__ import annotations

import torch
from torch import Tensor

SMALLEST_NORMAL = 2.0**-126
"""Scales below it count as zero, so that hardware which flushes subnormals agrees."""


def quantize_rows_int8(x: Tensor) -> tuple[Tensor, Tensor]:
    """Quantise each row symmetrically to 8 bits with its own scale.

    ``x`` is first converted to float32. Then, per row, ``scale = max|x| / 127`` (one division) and
    ``code = clamp(round_half_even(x / scale), -127, 127)`` (a division, not a product with the reciprocal).
    A row whose scale is zero or subnormal gets scale 1 and codes 0. A row that holds an infinity or a NaN gets
    scale NaN and codes 0, so that the fault shows in the product.

    Args:
        x: floating ``[..., K]``.

    Returns:
        codes int8 ``[..., K]`` and scale float32 ``[..., 1]``.

    Raises:
        ValueError: ``x`` is not floating point.

    Cost: two divisions per element at most; counted as activation work, not as part of the linear operator.

    >>> codes, scale = quantize_rows_int8(torch.tensor([[0.5, -127.0, 1.5]]))
    >>> codes.tolist(), scale.tolist()
    ([[0, -127, 2]], [[1.0]])
    """
    if not x.is_floating_point():
        raise ValueError(f"x must be floating point, got {x.dtype}")
    x = x.detach().to(torch.float32)
    scale = _row_absmax(x) / 127.0
    tiny = scale < SMALLEST_NORMAL
    scale = torch.where(tiny, torch.ones_like(scale), scale)
    scale = torch.where(torch.isfinite(scale), scale, torch.full_like(scale, torch.nan))
    codes = torch.round(x / scale).clamp(-127, 127)
    # Casting NaN to an integer is undefined; a tiny row divided by 1 already rounds to 0.
    return torch.nan_to_num(codes, nan=0.0).to(torch.int8), scale


def _row_absmax(x: Tensor) -> Tensor:
    if x.shape[-1] == 0:
        return x.new_zeros(*x.shape[:-1], 1)
    return x.abs().amax(-1, keepdim=True)
