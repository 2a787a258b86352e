"""A few neighbouring tokens around each target: which sources are they, and how are they mixed?

Sources that nobody sees (padding, the unfilled part of a cache) and tokens before the first are zeros. They are part of
the sum: 0 in a product, −|w| in a distance. So the window sees the same in a batch as alone, and the same step by step
as in the whole sequence.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ...operators.token_convolution import token_convolution
from .visibility import Visibility


class TapWindow:
    """The tokens from `before` ahead of a target to `size − 1 − before` behind it.

    Args:
        size: Tokens in the window, the target among them.
        causal: The target is the last of them; otherwise it is in the middle.

    Raises:
        ValueError: The window has no middle.
    """

    def __init__(self, size: int, causal: bool) -> None:
        if size and not causal and size % 2 == 0:
            raise ValueError(f"a kernel of {size} tokens has no middle one; use an odd kernel_size here")
        self.size = size
        self.before = size - 1 if causal else size // 2

    def sources(self, value: Tensor, targets: int, visibility: Visibility) -> Tensor:
        """The stretch of tokens that the windows of all targets cover.

        Args:
            value: `[B, H, S, E]`, zeros where nobody sees.
            targets: T.
            visibility: Says where the targets stand among the sources.

        Returns:
            `[B, H, T + size − 1, E]`.
        """
        length = value.shape[-2]
        if targets == length:
            return F.pad(value, (0, 0, self.before, self.size - 1 - self.before))
        first = visibility.positions(targets, length, value.device)[0] - self.before
        index = first + torch.arange(targets + self.size - 1, device=value.device)
        inside = (index >= 0) & (index < length)
        return value.index_select(-2, index.clamp(0, length - 1)) * inside.to(value.dtype).unsqueeze(-1)

    def own(self, value: Tensor, targets: int, visibility: Visibility) -> Tensor:
        """Each target's own value, `[B, H, T, E]`."""
        length = value.shape[-2]
        if targets == length:
            return value
        return value.index_select(-2, visibility.positions(targets, length, value.device))

    def convolve(self, value: Tensor, taps: Tensor, targets: int, visibility: Visibility) -> Tensor:
        """Depthwise convolution with one kernel per head.

        Args:
            value: `[B, H, S, E]`, zeros where nobody sees.
            taps: `[H, size]`.
            targets: T.
            visibility: Says where the targets stand among the sources.
        """
        return token_convolution(self.sources(value, targets, visibility), taps)
