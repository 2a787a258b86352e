"""How one linear layer computes: a spec per operator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from ..operators.po2 import Po2Format
from .base import Place, Spec, require, require_choice, require_integer, require_positive

Parametrization = Literal["q", "ps", "denseshift"]
Grouping = Literal["row", "column", "block"]


@dataclass(frozen=True)
class DenseSpec(Spec):
    """Leave the module as it is: an ordinary matrix product, an ordinary attention."""

    kind: ClassVar[str] = "dense"
    place: ClassVar[Place] = "any"
    changes: ClassVar[bool] = False


@dataclass(frozen=True)
class ShiftSpec(Spec):
    """Weights are signed powers of two, or short sums of them: a product becomes a shift.

    Args:
        bits: Width of one weight code, sign included, 2 to 5.
        terms: Powers of two per weight. 1 is a pure shift; 2 and 3 are additive powers of two (APoT).
        group_size: Input features that share one power-of-two scale; None gives each output channel one scale.
        parametrization: What is trained. "q" rounds a float weight; "ps" trains shift and sign (DeepShift-PS);
            "denseshift" trains a sign and binary shift tensors (DenseShift).
        zero: Whether a code stands for zero. None follows the parametrization: DenseShift has none, the others do.
            A 4-bit format with a zero and seven exponents fits int8, one with eight exponents does not.
        activation_bits: 8 quantizes activations per row to int8, so that the product is exact in integers on any
            target; None keeps them as they come.
    """

    kind: ClassVar[str] = "shift"
    bits: int = 4
    terms: int = 1
    group_size: int | None = None
    parametrization: Parametrization = "q"
    zero: bool | None = None
    activation_bits: int | None = None

    def __post_init__(self) -> None:
        require_integer(self, "bits", 2, 5)
        require_integer(self, "terms", 1, 3)
        if self.group_size is not None:
            require_integer(self, "group_size", 1, 1 << 20)
        require_choice(self, "parametrization", get_args(Parametrization))
        require_choice(self, "activation_bits", (None, 8))
        require_choice(self, "zero", (None, True, False))
        trained = self.parametrization != "q"
        require(not (trained and self.terms > 1), f"shift: {self.parametrization} trains one term; set terms=1")
        require(
            not (self.parametrization == "denseshift" and self.zero),
            "shift: denseshift has no zero level; leave zero unset",
        )
        require(
            not (self.parametrization == "ps" and self.zero is False),
            "shift: ps has a ternary sign, hence a zero level; leave zero unset",
        )
        self.format  # noqa: B018  (builds the format, which validates bits against terms)

    @property
    def format(self) -> Po2Format:
        """The levels that a code can stand for."""
        zero = self.parametrization != "denseshift" if self.zero is None else self.zero
        return Po2Format(self.bits, self.terms, zero)


@dataclass(frozen=True)
class AdderSpec(Spec):
    """The output is a negative L1 distance: a product becomes a subtraction.

    Args:
        bits: 8 puts weights and activations on one shared power-of-two int8 grid; None computes in float.
        center: Subtract the mean over output channels, which removes the large negative offset of the distance.
        eta: Adaptive learning-rate factor of the weight (AdderNet), applied by the optimizer.
        norm: Also divide by the standard deviation over output channels, which makes the layer end in a
            LayerNorm: what a deep network of adders needs when it trains from scratch.
    """

    kind: ClassVar[str] = "adder"
    bits: int | None = 8
    center: bool = True
    eta: float = 0.2
    norm: bool = False

    def __post_init__(self) -> None:
        require_choice(self, "bits", (None, 8))
        require_choice(self, "center", (True, False))
        require_choice(self, "norm", (True, False))
        require(self.center or not self.norm, "adder: norm=True centres the distance; leave center unset")
        require_positive(self, "eta")


@dataclass(frozen=True)
class ShiftAddSpec(Spec):
    """ShiftAddNet's cascade: a shift layer sets the scale, an adder layer behind it the expression.

    Args:
        bits: Width of one shift code, 2 to 5.
        eta: Adaptive learning-rate factor of the adder weight, applied by the optimizer.
    """

    kind: ClassVar[str] = "shift_add"
    bits: int = 4
    eta: float = 0.2

    def __post_init__(self) -> None:
        require_integer(self, "bits", 2, 5)
        require_positive(self, "eta")

    @property
    def format(self) -> Po2Format:
        """The levels of the shift half."""
        return Po2Format(self.bits)


@dataclass(frozen=True)
class BcqSpec(Spec):
    """Binary-coding quantization: a weight is a sum of ±1 planes, each with a power-of-two scale (ShiftAddLLM).

    Args:
        planes: Binary planes, 1 to 4; the bits per weight.
        grouping: Which weights share scales: "row" (each output channel), "column" (each input feature), or
            "block" (8 input features by a group of output channels).
        group_size: Inputs per group for "row", outputs per group for "column" and "block"; None shares along the
            whole axis (an eighth of the outputs for "block").
        scale_terms: Signed powers of two that make up one scale, 1 to 3.
        activation_bits: 8 reads products from 8-bit look-up tables, so that their sum is exact in integers on any
            target; it needs one scale per plane and column: grouping "column" and no group_size. None computes with
            activations as they come.
    """

    kind: ClassVar[str] = "bcq"
    planes: int = 3
    grouping: Grouping = "row"
    group_size: int | None = None
    scale_terms: int = 3
    activation_bits: int | None = None

    def __post_init__(self) -> None:
        require_integer(self, "planes", 1, 4)
        require_choice(self, "grouping", get_args(Grouping))
        if self.group_size is not None:
            require_integer(self, "group_size", 1, 1 << 20)
        require_integer(self, "scale_terms", 1, 3)
        require_choice(self, "activation_bits", (None, 8))
        whole_columns = self.grouping == "column" and self.group_size is None
        require(
            self.activation_bits is None or whole_columns,
            f"bcq: 8-bit look-up tables need one scale per plane and column, not {self.grouping!r} groups of "
            f"{self.group_size or 'the default size'}; set grouping='column' and leave group_size unset",
        )
