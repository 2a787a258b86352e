"""Mixture layers: a router gives each row to a dense or to a shift expert, and only that one is computed.

Both experts start from the same dense matrix, so that a converted layer starts close to the function that it had, and
the router, a linear layer with two outputs, starts undecided. Training makes it find the rows that need the exact
product, while a loss on the experts' work keeps both busy for the same time.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..operators.calling import as_rows
from ..operators.counts import OpCounts, dense_linear_counts, shift_linear_counts
from ..operators.packing import pack_codes, unpack_codes
from ..operators.po2 import dequantize_codes, fit_exponent, po2_round, quantize_codes
from ..operators.routing import attach_loss, balance_loss, gate, margin_noise, mix_rows, router_margins
from ..operators.shift import shift_linear
from ..operators.ste import straight_through
from ..specs import MixtureSpec
from .base import FloatWeight, LatentModule, OperatorModule, PackedModule, frozen, trained, twin

MEMORY = 6
"""A forward forgets 2^-6 of the rows that were counted before it."""

ROUTER_DEVIATION = 0.3
"""Of a new router's logits, for inputs of unit variance."""


class _Mixture(OperatorModule):
    """What both states know of their router.

    Attributes:
        rows_seen: int64 `[2]`; how many of the rows met lately in training the router gives to the dense and to the
            shift expert, noise aside. Integers, because a model's conversion to bfloat16 must not round a count.
    """

    spec: MixtureSpec
    rows_seen: Tensor
    router: nn.Parameter
    router_bias: nn.Parameter

    def _allocate_router(self, dtype: torch.dtype, device: Any) -> None:
        self.register_buffer("rows_seen", torch.zeros(2, dtype=torch.int64, device=device))
        make = trained if isinstance(self, LatentModule) else frozen
        self.router = make(2, self.in_features, dtype=dtype, device=device)
        self.router_bias = make(2, dtype=dtype, device=device)

    def shares(self) -> tuple[float, float]:
        """Shares of rows, dense and shift: measured, or those that training aims at as long as nothing is."""
        dense, shift = self.rows_seen.tolist()
        return (dense / (dense + shift), shift / (dense + shift)) if dense + shift else self.spec.target_shares

    @property
    def is_linear(self) -> bool:
        """Which matrix a row meets depends on the row."""
        return False

    def counts(self, rows: int) -> OpCounts:
        """Router and comparison for every row, and the expert that it takes, by the shares measured in training."""
        spec, n, k, bias = self.spec, self.out_features, self.in_features, self.bias is not None
        dense = round(rows * self.shares()[0])
        groups = 1 if spec.group_size is None else -(-k // spec.group_size)
        router = dense_linear_counts(rows, 2, k, bias=True) + OpCounts(add=rows)
        experts = dense_linear_counts(dense, n, k, bias)
        return router + experts + shift_linear_counts(rows - dense, n, k, spec.terms, bias, groups)

    def _state(self) -> dict[str, Tensor]:
        """What both states hold in the same form."""
        held = {"router": self.router, "router_bias": self.router_bias, "rows_seen": self.rows_seen}
        return {name: tensor.detach().clone() for name, tensor in held.items()}

    def _mean(self, dense: Tensor, shift: Tensor) -> Tensor:
        """The experts' matrices, weighted by their shares."""
        first, second = self.shares()
        return (first * dense.detach() + second * shift.detach()).to(dense.dtype)


class MixtureLinear(_Mixture, FloatWeight):
    """The trainable mixture.

    `y = E_i(x) · p_i / stop_gradient(p_i)` with `p = softmax(x·Rᵀ + r)` and i the likelier expert; in training, noise
    decides about rows that are a close call. The factor is 1 in value, so a converted layer starts at its own function
    and inference computes no softmax. Its gradient tells the router how much better the loss would be with more of
    the expert chosen, which is a judgement of the expert only once its outputs have the right magnitude: of an expert
    whose rounding shrinks them (2 bits, before any training), more always looks better.

    The balance loss is attached to the output: it needs no help from whoever computes the loss, and it does not show
    in the loss that is logged. It has weight `spec.balance · balance_scale` in every backward pass.

    Attributes:
        weight: The dense expert, float `[N, K]`.
        shift_weight: Float weight of the shift expert `[N, K]`, rounded to powers of two in the forward.
        router: `[2, K]`, one logit for the dense and one for the shift expert.
        router_bias: `[2]`. Without it no router could share out rows around zero in another ratio than 1:1.
        balance_scale: The factor of a trainer's own loss in each backward pass: 1 / micro-batches under gradient
            accumulation, times the scale of a loss scaler. See `hf.callbacks.ExpertShares`, which sets it.

    References:
        You et al., ShiftAddViT, NeurIPS 2023. Differs: the gate's value is 1, and its gradient is that of p_i divided
        by p_i; a router with a bias; noise in units of the margins' spread; experts that share the bias; a shift
        expert with scales, trained as DeepShift-Q.
    """

    balance_scale: float = 1.0

    def allocate(self, device: Any, dtype: torch.dtype) -> None:
        """Room for the tensors named above."""
        self.shift_weight = trained(self.out_features, self.in_features, dtype=dtype, device=device)
        self._allocate_router(dtype, device)

    def start_from(self, weight: Tensor) -> None:
        """Both experts from the dense weight; the router at random, the same for all layers of a width."""
        noise = torch.randn(2, self.in_features, generator=torch.Generator().manual_seed(self.in_features))
        router = noise * (ROUTER_DEVIATION / self.in_features**0.5)
        self.fill(
            weight=weight,
            shift_weight=weight.detach().clone(),
            router=router.to(weight),
            router_bias=torch.zeros_like(weight[0, :1]).repeat(2),
            rows_seen=torch.zeros(2, dtype=torch.int64, device=weight.device),
        )

    def rounded_weight(self) -> Tensor:
        """That of the shift expert, with the gradient of its float weight."""
        rounded = po2_round(self.shift_weight.detach(), self.spec.expert.format, self.spec.group_size)
        return straight_through(self.shift_weight, rounded)

    def forward(self, x: Tensor) -> Tensor:
        """`x [..., K]` to `[..., N]`."""
        rows = as_rows(x)
        margins = router_margins(rows, self.router, self.router_bias)
        if not self.training or rows.shape[0] == 0:
            return self._experts(rows, margins > 0).reshape(*x.shape[:-1], self.out_features)
        self._remember(margins > 0)
        noise = margin_noise(margins, self.spec.noise)
        chosen = margins.detach() + noise * torch.randn_like(margins) > 0
        y = self._experts(rows, chosen)
        y = y * gate(margins, chosen).to(y.dtype)[:, None]
        if self.spec.balance and torch.is_grad_enabled():
            latencies = (self.spec.dense_latency, self.spec.shift_latency)
            y = attach_loss(y, balance_loss(margins, noise, latencies), self.spec.balance * self.balance_scale)
        return y.reshape(*x.shape[:-1], self.out_features)

    def _experts(self, rows: Tensor, to_shift: Tensor) -> Tensor:
        shift_weight = self.effective_weight().to(rows.dtype)
        return mix_rows(
            rows,
            to_shift,
            (lambda x: F.linear(x, self.weight, self.bias), lambda x: F.linear(x, shift_weight, self.bias)),
        )

    @torch.no_grad()
    def _remember(self, to_shift: Tensor) -> None:
        shift = to_shift.sum()
        seen = torch.stack([to_shift.shape[0] - shift, shift])
        # Not in place: a graph for an earlier micro-batch, or a checkpoint that is being written, may hold the old one.
        self.rows_seen = self.rows_seen - (self.rows_seen >> MEMORY) + seen

    def pack(self) -> PackedMixtureLinear:
        """Store the shift expert as codes; the dense one and the router stay as they are."""
        fmt, group = self.spec.expert.format, self.spec.group_size
        rounded = self.effective_weight().detach()
        exponent = fit_exponent(rounded, fmt, group)
        codes = pack_codes(quantize_codes(rounded, exponent, fmt, group), fmt.bits)
        tensors = {"dense_weight": self.weight.detach().clone(), "weight_packed": codes, "weight_exponent": exponent}
        return twin(self, PackedMixtureLinear).fill(**tensors, **self._state())

    def dense_approximation(self) -> Tensor:
        """The experts' mean, weighted by their shares."""
        return self._mean(self.weight, self.effective_weight())


class PackedMixtureLinear(_Mixture, PackedModule):
    """The mixture with its shift expert as codes.

    Attributes:
        dense_weight: The dense expert, float `[N, K]`.
        weight_packed: Codes of the shift expert, uint8 `[N, ceil(K·bits/8)]`.
        weight_exponent: Their power-of-two scales, int8 `[N, G]`.
        router: Float `[2, K]`.
        router_bias: Float `[2]`.
    """

    def allocate(self, device: Any, dtype: torch.dtype) -> None:
        """Room for the tensors named above."""
        super().allocate(device, dtype)
        n, k, spec = self.out_features, self.in_features, self.spec
        groups = 1 if spec.group_size is None else -(-k // spec.group_size)
        self.dense_weight = frozen(n, k, dtype=dtype, device=device)
        self.weight_packed = frozen(n, -(-k * spec.bits // 8), dtype=torch.uint8, device=device)
        self.weight_exponent = frozen(n, groups, dtype=torch.int8, device=device)
        self._allocate_router(dtype, device)

    def forward(self, x: Tensor) -> Tensor:
        """`x [..., K]` to `[..., N]`."""
        rows = as_rows(x)
        to_shift = router_margins(rows, self.router, self.router_bias) > 0
        y = mix_rows(rows, to_shift, (lambda x: F.linear(x, self.dense_weight, self.bias), self._shift))
        return y.reshape(*x.shape[:-1], self.out_features)

    def _shift(self, rows: Tensor) -> Tensor:
        fmt, group = self.spec.expert.format, self.spec.group_size or 0
        codes = (self.weight_packed, self.weight_exponent)
        return shift_linear(rows, *codes, self.bias, fmt.bits, fmt.terms, fmt.zero, group, 0)

    def _shift_weight(self) -> Tensor:
        codes = unpack_codes(self.weight_packed, self.spec.bits, self.in_features)
        fmt = self.spec.expert.format
        return dequantize_codes(codes, self.weight_exponent, fmt, self.spec.group_size, self.dtype)

    def unpack(self) -> MixtureLinear:
        """Float experts, the shift one at the codes' values."""
        tensors = {"weight": self.dense_weight.detach().clone(), "shift_weight": self._shift_weight()}
        return twin(self, MixtureLinear).fill(**tensors, **self._state())

    def dense_approximation(self) -> Tensor:
        """The experts' mean, weighted by their shares."""
        return self._mean(self.dense_weight, self._shift_weight())


def expert_shares(model: nn.Module) -> dict[str, tuple[float, float]]:
    """How the mixtures of a model share out the rows that they met lately in training.

    Padding counts like any other row.

    Returns:
        Module name to shares of rows, dense and shift; the shares that training aims at for a layer that has not
        trained yet.

    >>> layer = MixtureLinear.from_dense(nn.Linear(4, 4), MixtureSpec(dense_latency=3, shift_latency=1))
    >>> expert_shares(nn.ModuleDict({"fc": layer}))
    {'fc': (0.25, 0.75)}
    """
    return {name: module.shares() for name, module in model.named_modules() if isinstance(module, _Mixture)}


def set_balance_scale(model: nn.Module, scale: float) -> None:
    """Give every mixture of a model the factor that a trainer's loss has in each backward pass."""
    for module in model.modules():
        if isinstance(module, MixtureLinear):
            module.balance_scale = scale
