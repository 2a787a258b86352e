"""What stands where an operand ends before its tile does? Zeros."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def lengthen(tensor: Tensor, axis: int, size: int) -> Tensor:
    """At least ``size`` long along an axis that is counted from behind; the tensor itself where it is.

    >>> import torch
    >>> lengthen(torch.ones(2, 3), -2, 4).shape
    torch.Size([4, 3])
    """
    missing = size - tensor.shape[axis]
    return tensor if missing <= 0 else F.pad(tensor, (0, 0) * (-axis - 1) + (0, missing))
