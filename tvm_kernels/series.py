"""What is measured? One way of computing at several sizes, which become rows of a latency table."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from shiftadd_transformers.cost import AttentionShape
from shiftadd_transformers.specs import Spec

from .samples import sample_core, sample_layer
from .timers import Machine, Timer

Sized = tuple[dict[str, Any], Timer]
"""What a row of the table says of a size, and what times it."""


@dataclass(frozen=True)
class LayerSeries:
    """One layer with several numbers of input rows.

    Args:
        spec: how it computes.
        k: input features.
        n: output features.
        rows: numbers of input rows.
    """

    spec: Spec
    k: int
    n: int
    rows: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def place(self) -> dict[str, Any]:
        """What all its rows say alike."""
        return {"k": self.k, "n": self.n}

    def timers(self, where: Machine) -> list[Sized]:
        """One per size.

        Raises:
            MissingKernelError: the machine has no kernel for it.
        """
        layer = sample_layer(self.spec, self.k, self.n)
        return [({"m": m, **self.place()}, where.layer_timer(self.spec, layer, m)) for m in self.rows]


@dataclass(frozen=True)
class CoreSeries:
    """One attention's core with several numbers of tokens.

    Args:
        spec: how it computes.
        shapes: calls, at least one; heads are alike in all.
    """

    spec: Spec
    shapes: tuple[AttentionShape, ...]

    def __len__(self) -> int:
        return len(self.shapes)

    def place(self) -> dict[str, Any]:
        """What all its rows say alike."""
        return {name: value for name, value in _said(self.shapes[0]).items() if name not in ("targets", "sources")}

    def timers(self, where: Machine) -> list[Sized]:
        """One per size.

        Raises:
            MissingKernelError: the machine cannot run it.
            ValueError: such a core cannot stand in such an attention.
        """
        return [(_said(shape), where.core_timer(sample_core(self.spec, shape))) for shape in self.shapes]


Series = LayerSeries | CoreSeries


def _said(shape: AttentionShape) -> dict[str, Any]:
    """The fields of a shape; flags only where they are set."""
    return {name: value for name, value in asdict(shape).items() if value is not False}
