"""What every operator layer is, whatever it computes.

A layer stands where a dense linear layer stood and has two states. The *latent* one holds float parameters and
trains; the *packed* one holds integer codes, is small, and is what gets shipped. Both compute the same function.
Concrete layers live in the files beside this one, one file per operator.
"""

from __future__ import annotations

from typing import Any, Self, TypeVar

import torch
from torch import Tensor, nn

from ..operators.counts import OpCounts
from ..specs import Spec

Module = TypeVar("Module", bound="OperatorModule")

# Checkpoints hand tensors over by reference; a layer that fills its own must mark them, or a loader that knows
# only its own initialisation rules would overwrite them.
INITIALISED = "_is_hf_initialized"


def is_dense(module: nn.Module) -> bool:
    """Whether a module is an ordinary matrix product that may be replaced.

    Subclasses of `nn.Linear` have a forward of their own (adapters, attention internals) and are left alone.
    """
    return type(module) is nn.Linear or is_conv1d(module)


def is_conv1d(module: nn.Module) -> bool:
    """GPT-2's linear layer, which stores its weight as `[K, N]`. Told by shape, as this floor knows torch only."""
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf")


def dense_weight(module: nn.Module) -> Tensor:
    """The weight of a dense layer as `[N, K]`."""
    weight = module.get_parameter("weight")
    return weight.t() if is_conv1d(module) else weight


def dense_bias(module: nn.Module) -> nn.Parameter | None:
    """The bias of a dense layer, `[N]`, or None."""
    bias: nn.Parameter | None = getattr(module, "bias", None)
    return bias


def make_dense(dense_type: type[nn.Module], weight: Tensor, bias: nn.Parameter | None) -> nn.Module:
    """A dense layer of the given type with these values. `weight` is `[N, K]`."""
    n, k = weight.shape
    with torch.device("meta"):
        dense = nn.Linear(k, n, bias is not None) if dense_type is nn.Linear else dense_type(n, k)
    stored = weight if dense_type is nn.Linear else weight.t().contiguous()
    dense.weight = nn.Parameter(stored.detach().clone())
    dense.register_parameter("bias", bias)
    return dense


def frozen(*shape: int, dtype: torch.dtype, device: Any = None) -> nn.Parameter:
    """Storage for a packed tensor: saved with the model, never trained."""
    return nn.Parameter(torch.zeros(shape, dtype=dtype, device=device), requires_grad=False)


def trained(*shape: int, dtype: torch.dtype | None = None, device: Any = None) -> nn.Parameter:
    """Storage for a float parameter, to be filled by `from_dense`, `unpack` or a checkpoint."""
    return nn.Parameter(torch.zeros(shape, dtype=dtype, device=device))


class OperatorModule(nn.Module):
    """What the latent and the packed state share.

    Attributes:
        spec: How this layer computes.
        in_features: K.
        out_features: N.
        dtype: The floating dtype of the layers around.
        dense_type: The class that stood here before, so that reverting restores it.
    """

    spec: Spec
    in_features: int
    out_features: int
    dtype: torch.dtype
    bias: Any  # a parameter or None, which nn.Linear does not declare
    dense_type: type[nn.Module] = nn.Linear

    def __init__(
        self,
        spec: Any,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.spec, self.in_features, self.out_features = spec, in_features, out_features
        self.register_parameter("bias", trained(out_features, dtype=dtype, device=device) if bias else None)
        self.allocate(device, dtype or torch.get_default_dtype())

    def allocate(self, device: Any, dtype: torch.dtype) -> None:
        """Make room for this operator's own tensors; floats take `dtype`."""

    @classmethod
    def skeleton(cls, dense: nn.Module, spec: Spec) -> Self:
        """An empty layer of the right shapes for a dense one, without memory, to be filled by a checkpoint."""
        weight = dense_weight(dense)
        n, k = weight.shape
        layer = cls(spec, k, n, dense_bias(dense) is not None, device="meta", dtype=weight.dtype)
        layer.dense_type = type(dense)
        return layer

    def fill(self, **tensors: Tensor | nn.Parameter | None) -> Self:
        """Put values into the named parameters and buffers, keeping each one's kind."""
        for name, value in tensors.items():
            if value is not None and not isinstance(value, nn.Parameter) and name in self._parameters:
                old = self._parameters[name]
                value = nn.Parameter(value, requires_grad=old is None or old.requires_grad)
            setattr(self, name, value)
            if value is not None:
                setattr(value, INITIALISED, True)
        return self

    def counts(self, rows: int) -> OpCounts:
        """Multiplications, additions, shifts and look-ups for an input of `rows` rows."""
        raise NotImplementedError

    def stored_bytes(self) -> int:
        """Bytes of all parameters and buffers as they are stored now."""
        tensors = [*self.parameters(recurse=False), *self.buffers(recurse=False)]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def dense_approximation(self) -> Tensor:
        """The `[N, K]` matrix of the dense layer that comes closest; equal where the operator is linear."""
        raise NotImplementedError

    @property
    def is_linear(self) -> bool:
        """Whether a dense layer can compute the same function."""
        return True

    def to_dense(self) -> nn.Module:
        """The dense layer with `dense_approximation` as its weight."""
        return make_dense(self.dense_type, self.dense_approximation(), self.bias)

    def extra_repr(self) -> str:
        """Shown by `print(model)`."""
        return f"{self.in_features}, {self.out_features}, {self.spec}"


class LatentModule(OperatorModule):
    """The trainable state."""

    _held: tuple[Any, Tensor, list[Tensor]] | None = None

    def rounded_weight(self) -> Tensor:
        """ŵ `[N, K]` of a linear operator, differentiable with respect to the layer's parameters."""
        raise NotImplementedError

    def effective_weight(self) -> Tensor:
        """`rounded_weight`, made once for as long as no gradient is recorded and no parameter changes.

        Generation calls a layer once per token; rounding the same weight each time would take longer than the
        product. A change is seen by a parameter's version counter, its memory, and `train()` or `eval()`.
        """
        if torch.compiler.is_compiling():
            return self.rounded_weight()
        tensors = [*self.parameters(recurse=False), *self.buffers(recurse=False)]
        # Inference tensors have no version, fake and sharded ones no memory to tell them by.
        plain = all(type(t) in (Tensor, nn.Parameter) and not t.is_inference() for t in tensors)
        if torch.is_grad_enabled() or not plain:
            self._held = None
            return self.rounded_weight()
        state = [(tensor.data_ptr(), tensor._version) for tensor in tensors]
        if self._held is None or self._held[0] != state:
            # Holding the tensors keeps their addresses from being given to others.
            self._held = (state, self.rounded_weight(), [tensor.detach() for tensor in tensors])
        return self._held[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_held": None}

    def train(self, mode: bool = True) -> Self:
        """As in PyTorch."""
        self._held = None
        return super().train(mode)

    @property
    def dtype(self) -> torch.dtype:  # type: ignore[override]
        """The floating dtype of its parameters."""
        return next(self.parameters(recurse=False)).dtype

    @classmethod
    def from_dense(cls, dense: nn.Module, spec: Spec) -> Self:
        """Start from a dense layer's values.

        Raises:
            ValueError: The weight holds NaN or infinity.
        """
        weight = dense_weight(dense)
        require_finite("weight", weight, "repair the checkpoint before converting it")
        layer = cls.skeleton(dense, spec)
        bias = dense_bias(dense)
        layer.fill(bias=bias)
        layer.start_from(dense.get_parameter("weight") if type(dense) is nn.Linear else weight.contiguous())
        return layer.train(dense.training)

    def start_from(self, weight: Tensor) -> None:
        """Set the parameters so that the layer comes close to the dense weight `[N, K]`."""
        raise NotImplementedError

    def pack(self) -> PackedModule:
        """The packed state with the same function."""
        raise NotImplementedError

    def require_finite(self) -> Self:
        """Refuse parameters that no code stands for.

        Raises:
            ValueError: One holds NaN or infinity.
        """
        for name, parameter in self.named_parameters(recurse=False):
            require_finite(name, parameter, "train again from an earlier checkpoint with a lower learning rate")
        return self


class FloatWeight(LatentModule, nn.Linear):
    """A latent layer that keeps `nn.Linear`'s float `weight` under its key, so dense checkpoints load straight in."""

    def __init__(
        self,
        spec: Any,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        # nn.Linear's own initialiser is what training from scratch starts with.
        nn.Linear.__init__(self, in_features, out_features, bias, device=device, dtype=dtype)
        self.spec = spec
        self.allocate(device, dtype or torch.get_default_dtype())


class WeightView(OperatorModule):
    """A layer without a parameter called `weight`, for code that only looks at one (its dtype, its shape: T5 does)."""

    @property
    def weight(self) -> Tensor:
        """The float matrix that stands for the parameters, `[N, K]`, computed at each access."""
        weight = self.dense_approximation().detach()
        setattr(weight, INITIALISED, True)
        return weight


class PackedModule(WeightView):
    """The shipped state: integer codes, not trainable, computed by the operators."""

    def allocate(self, device: Any, dtype: torch.dtype) -> None:
        """Remember the float dtype that the codes stand for."""
        self.dtype = dtype

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        # Codes have no float dtype; what `.to(bfloat16)` makes of the layers around is remembered here.
        self.dtype = fn(torch.empty(0, dtype=self.dtype)).dtype
        return super()._apply(fn, recurse)

    def unpack(self) -> LatentModule:
        """The latent state with the same function."""
        raise NotImplementedError


def require_finite(name: str, tensor: Tensor, remedy: str) -> None:
    """Refuse NaN and infinity, and say what to do."""
    if not torch.isfinite(tensor).all():
        raise ValueError(f"{name} holds NaN or infinity; {remedy}")


def twin(of: OperatorModule, cls: type[Module]) -> Module:
    """An empty layer of another class (usually the other state) at the same place, with the same bias."""
    layer = cls(of.spec, of.in_features, of.out_features, of.bias is not None, device="meta", dtype=of.dtype)
    layer.dense_type = of.dense_type
    layer.fill(bias=of.bias)
    return layer.train(of.training)
