"""Which source tokens may a target token see, and where among them does it stand itself?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Visibility:
    """What an attention knows about its tokens besides queries, keys and values.

    Args:
        allowed: bool, broadcastable to `[B, H, T, S]`, True where target t may see source s; None where `causal`
            says it all.
        causal: Target t sees the sources 0 to t. Looked at where `allowed` is None.
        bias: Added to the scores, broadcastable to `[B, H, T, S]`; None adds nothing.
    """

    allowed: Tensor | None = None
    causal: bool = False
    bias: Tensor | None = None

    def mask(self, targets: int, sources: int, device: torch.device) -> Tensor | None:
        """`allowed` spelled out; None where every target sees every source."""
        if self.allowed is not None or not self.causal or targets == 1:
            return self.allowed
        return torch.ones(targets, sources, dtype=torch.bool, device=device).tril()[None, None]

    def seen(self) -> Tensor | None:
        """Sources that any target sees: padding is what none does. `[B, 1, S]` or None for all."""
        if self.allowed is None:
            return None
        return self.allowed.any(dim=-2).any(dim=1, keepdim=True)

    def zero_unseen(self, value: Tensor) -> Tensor:
        """`value [B, H, S, E]` with zeros for the sources that no target sees; itself where all are seen."""
        seen = self.seen()
        return value if seen is None else value * seen.unsqueeze(-1).to(value.dtype)

    def same_for_all_targets(self, targets: int) -> bool:
        """Whether the mask hides padding and nothing else, told by its shape: a repeated row is not stored twice."""
        if self.allowed is None:
            return not self.causal or targets == 1
        return self.allowed.shape[-2] == 1 or self.allowed.stride(-2) == 0

    def positions(self, targets: int, sources: int, device: torch.device) -> Tensor:
        """Index of each target among the sources of a self-attention, `[T]`.

        Equal lengths mean the same tokens. Otherwise a cache holds more sources than there are targets, which are
        the last tokens that anyone sees.
        """
        steps = torch.arange(targets, device=device)
        if targets == sources:
            return steps
        if self.allowed is None:
            # A single target is the last token; several come first in a cache that has room for more.
            return steps + (sources - 1 if targets == 1 else 0)
        columns = self.allowed.flatten(0, -2).any(dim=0)
        last = (torch.arange(sources, device=device) * columns).amax()
        return last - (targets - 1) + steps

    def of_heads(self, count: int) -> Visibility:
        """The same for the first heads alone."""
        cut = [part if part is None or part.shape[1] == 1 else part[:, :count] for part in (self.allowed, self.bias)]
        return Visibility(cut[0], self.causal, cut[1])
