"""How a linear layer with two experts computes: a dense one for the rows that need it, a shift one for the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .base import Spec, require_positive
from .linear import ShiftSpec


@dataclass(frozen=True)
class MixtureSpec(Spec):
    """A router sends each row to a dense or to a shift expert (ShiftAddViT's mixture, for any linear layer).

    Training balances the experts' work: rows are shared in inverse proportion to latency, so that both experts,
    running side by side, finish together. Latencies of 6 and 4 give 40 % of the rows to the dense expert.

    Args:
        bits: Width of one code of the shift expert, sign included, 2 to 5.
        terms: Powers of two per weight of the shift expert, 1 to 3.
        group_size: Input features of the shift expert that share one power-of-two scale; None gives each output
            channel one scale.
        dense_latency: Time of the dense expert for a number of rows, in any unit; from a measured table.
        shift_latency: Time of the shift expert for as many rows, in the same unit.
        balance: Weight of the balance loss, at least 0.
        noise: Standard deviation of the noise on the router's decision while training, in units of the standard
            deviation of the decision over the batch. Rows that are a close call then meet both experts.
    """

    kind: ClassVar[str] = "mixture"
    bits: int = 4
    terms: int = 1
    group_size: int | None = None
    dense_latency: float = 6.0
    shift_latency: float = 4.0
    balance: float = 0.01
    noise: float = 0.3

    def __post_init__(self) -> None:
        try:
            self.expert  # noqa: B018  (builds the shift expert's spec, which validates its fields)
        except ValueError as error:
            raise ValueError(f"mixture: of its expert, {error}") from None
        for name in ("dense_latency", "shift_latency", "noise"):
            require_positive(self, name)
        if self.balance != 0 or isinstance(self.balance, bool):
            require_positive(self, "balance")

    @property
    def expert(self) -> ShiftSpec:
        """The spec of the shift expert."""
        return ShiftSpec(self.bits, self.terms, self.group_size)

    @property
    def target_shares(self) -> tuple[float, float]:
        """Shares of rows, dense and shift, at which both experts take the same time.

        >>> MixtureSpec(dense_latency=6, shift_latency=4).target_shares
        (0.4, 0.6)
        """
        both = self.dense_latency + self.shift_latency
        return self.shift_latency / both, self.dense_latency / both
