"""Which update rule does each parameter of a converted model need?

Adder weights follow AdderNet's adaptive rule, everything else AdamW. The adaptive rule rescales a layer's
gradient to a fixed norm, so it must see the gradient that the step is really made of. It therefore lives in
the step and not, as in the released code, in the backward pass:

* a loss scaler would find the scale cancelled there and divide by it again (updates 65536 times too small);
* the mean of normalised gradients over processes or micro-batches is not the normalised mean;
* AdamW divides by the gradient's own magnitude, so it cancels a rescale altogether: with it, the rule needs
  SGD.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..layers.attention import TokenMixer
from ..layers.base import LatentModule
from ..specs import AdderSpec, ShiftAddSpec, ShiftSpec, nearest

RULES = ("adamw", "adder")
SMALLEST_NORM = 1e-12


class ShiftAddOptimizer(torch.optim.AdamW):
    """AdamW, with AdderNet's rule for the groups that carry ``rule="adder"``.

    In such a group, for each weight with gradient ``g``:

        g <- eta * sqrt(numel) * g / max(||g||_2, 1e-12)
        v <- momentum * v + g + weight_decay * w
        w <- w - min(1, step / warmup) * lr * v

    The stored ``.grad`` is not changed. Schedulers, closures, gradient accumulation, loss scaling and
    clipping work as for AdamW; clipping a global norm counts the adder gradients before they are rescaled and
    leaves their update as it is, unless the group's gradients vanish.

    Args:
        params: Parameters, or groups. A group may carry ``rule`` (``"adamw"`` or ``"adder"``) and, for
            ``"adder"``, ``eta`` (default 0.2), ``momentum`` (default 0.9) and ``warmup`` (steps over which its own
            rate rises, beside what a scheduler does; default 0).
        lr: Learning rate of groups without their own.
        betas: AdamW's.
        eps: AdamW's.
        weight_decay: Of groups without their own; decoupled for ``"adamw"``, in the gradient for ``"adder"``.
        **kwargs: Passed on to :class:`torch.optim.AdamW` (``foreach``, ``fused``, ``capturable``, ...).

    Examples:
        >>> weight = nn.Parameter(torch.zeros(4))
        >>> group = {"params": [weight], "rule": "adder", "weight_decay": 0.0}
        >>> optimizer = ShiftAddOptimizer([group], lr=1.0)
        >>> weight.grad = torch.tensor([3.0, 0.0, 0.0, 4.0])
        >>> optimizer.step()
        >>> weight.detach()
        tensor([-0.2400,  0.0000,  0.0000, -0.3200])

    References:
        Chen et al., AdderNet, CVPR 2020, eq. 12-13. Differs: applied in the step, see the module's docstring.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        **kwargs: Any,
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, **kwargs)
        # A fused AdamW may be handed scaled gradients and the scale; the adder rule wants them unscaled
        # first.
        self._step_supports_amp_scaling = False

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group.

        Raises:
            ValueError: Its rule is unknown, or its ``eta``, ``momentum`` or ``warmup`` out of range.
        """
        rule = param_group.setdefault("rule", "adamw")
        if rule not in RULES:
            raise ValueError(f"unknown update rule {rule!r}; {nearest(str(rule), list(RULES))}")
        if rule == "adder":
            if param_group.setdefault("eta", 0.2) <= 0:
                raise ValueError(f"eta must be positive, not {param_group['eta']!r}")
            if not 0 <= param_group.setdefault("momentum", 0.9) < 1:
                raise ValueError(f"momentum must be in [0, 1), not {param_group['momentum']!r}")
            if param_group.setdefault("warmup", 0) < 0:
                raise ValueError(f"warmup is a number of steps, at least 0, not {param_group['warmup']!r}")
        super().add_param_group(param_group)

    def _init_group(self, group: dict[str, Any], *collected: Any) -> bool:
        # AdamW.step asks every group for its parameters here, after the closure and without gradients. An
        # adder group takes its own step and hands none over. Overriding `step` instead would run step hooks
        # twice.
        if group.get("rule") != "adder":
            return bool(super()._init_group(group, *collected))
        for parameter in group["params"]:
            if parameter.grad is not None:
                self._adder_step(parameter, group)
        return False

    def _adder_step(self, parameter: Tensor, group: dict[str, Any]) -> None:
        gradient = adder_gradient(parameter.grad, group["eta"])
        if group["maximize"]:
            gradient = -gradient
        if group["weight_decay"]:
            gradient = gradient.add(parameter, alpha=group["weight_decay"])
        state = self.state[parameter]
        if not state:
            # AdamW's loading expects a tensor `step` in every state.
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["momentum_buffer"] = torch.zeros_like(parameter)
        state["step"] += 1
        state["momentum_buffer"].mul_(group["momentum"]).add_(gradient)
        # A group that was saved before there was a warm-up has none.
        rise = min(1.0, float(state["step"]) / max(group.get("warmup", 0), 1))
        parameter.sub_(group["lr"] * rise * state["momentum_buffer"])


def adder_gradient(gradient: Tensor | None, eta: float) -> Tensor:
    """``eta * sqrt(numel) * g / max(||g||, 1e-12)``, the norm in float32.

    Raises:
        RuntimeError: The gradient is sparse.

    Examples:
        >>> adder_gradient(torch.tensor([3.0, 0.0, 0.0, 4.0]), eta=0.5)
        tensor([0.6000, 0.0000, 0.0000, 0.8000])
    """
    assert gradient is not None
    if gradient.is_sparse:
        raise RuntimeError("the adder rule needs dense gradients; use an embedding with sparse=False")
    norm = torch.linalg.vector_norm(gradient, dtype=torch.promote_types(gradient.dtype, torch.float32))
    if hasattr(norm, "full_tensor"):  # a sharded weight (FSDP): its layer's norm spans all processes
        norm = float(norm.full_tensor())
        return gradient * (eta * math.sqrt(gradient.numel()) / max(norm, SMALLEST_NORM))
    factor = eta * math.sqrt(gradient.numel()) / norm.clamp_min(SMALLEST_NORM)
    return gradient * factor.to(gradient.dtype)


def make_optimizer(
    model: nn.Module,
    lr: float,
    *,
    adder_lr: float | None = None,
    adder_warmup: int = 0,
    weight_decay: float = 0.01,
    adder_weight_decay: float = 0.0,
    reference_weight_decay: float = 1e-4,
    reference_lr_factor: float = 0.01,
    sign_lr_factor: float = 1.0,
    momentum: float = 0.9,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    **kwargs: Any,
) -> ShiftAddOptimizer:
    """An optimizer with one group per kind of parameter; each trainable parameter is in exactly one.

    ============= =========================================================== =====================
    group         parameters                                                  rule
    ============= =========================================================== =====================
    ``adder``     templates of adder and shift-add layers, and distance mixers adder, ``adder_lr``
    ``shift``     shifts of DeepShift-PS layers                               AdamW, no decay
    ``sign``      signs of DeepShift-PS layers                                ... lr * sign_lr_factor
    ``reference`` sign and shift tensors of DenseShift layers                 ... lr * reference_lr_factor
    ``no_decay``  scales, offsets, norms, biases: everything without a matrix AdamW, no decay
    ``decay``     the rest                                                    AdamW, ``weight_decay``
    ============= =========================================================== =====================

    Args:
        model: A converted (latent) model, or any other.
        lr: Learning rate of the AdamW groups.
        adder_lr: Learning rate of adder weights; None means ``lr``. The rule's step has a root mean square of up to
            ``adder_lr * eta / (1 - momentum)``, which is ``2 * lr`` by default; AdamW's is about ``lr``. Training
            from scratch, three times ``lr`` is a start; AdderNet's recipe peaks at 0.1, with plain SGD.
        adder_warmup: Steps over which the adder weights' rate rises to ``adder_lr``. The rule's steps have full size
            from the first one on, however small the gradients are: give it a fifth of the training where ``adder_lr``
            is high.
        weight_decay: Of the ``decay`` group.
        adder_weight_decay: Of adder weights. AdderNet uses 5e-4 from scratch; while fine-tuning there is no reason
            to draw templates to zero.
        reference_weight_decay: Of DenseShift references; decay pulls them towards the thresholds.
        reference_lr_factor: Multiplies ``lr`` for DenseShift references, which start within about 1e-3 of their
            thresholds. AdamW moves each by about ``lr`` per step, so at a learning rate of 1e-3 and a factor of 1 the
            first steps redraw most weights: right for random ones, which should set it to 1, and ruin for pretrained.
        sign_lr_factor: Multiplies ``lr`` for DeepShift-PS signs.
        momentum: Of adder weights.
        betas: AdamW's.
        eps: AdamW's.
        **kwargs: Passed on to :class:`ShiftAddOptimizer`.

    Raises:
        ValueError: The model has no trainable parameter (it is packed, or frozen).

    Examples:
        >>> optimizer = make_optimizer(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)), lr=1e-3)
        >>> [(group["name"], len(group["params"])) for group in optimizer.param_groups]
        [('decay', 1), ('no_decay', 3)]

    References:
        Elhoushi et al., DeepShift, 2021 (no decay on shifts and signs); Li et al., DenseShift, ICCV 2023.
    """
    settings: dict[str, dict[str, Any]] = {
        "shift": {"lr": lr, "weight_decay": 0.0},
        "sign": {"lr": lr * sign_lr_factor, "weight_decay": 0.0},
        "reference": {"lr": lr * reference_lr_factor, "weight_decay": reference_weight_decay},
        "no_decay": {"lr": lr, "weight_decay": 0.0},
        "decay": {"lr": lr, "weight_decay": weight_decay},
    }
    adder = {
        "rule": "adder",
        "lr": lr if adder_lr is None else adder_lr,
        "weight_decay": adder_weight_decay,
        "momentum": momentum,
        "warmup": adder_warmup,
    }
    groups: dict[tuple[str, float], dict[str, Any]] = {}
    for parameter, name, eta in _sorted_parameters(model):
        options = {**adder, "eta": eta} if name == "adder" else settings[name]
        groups.setdefault((name, eta), {"name": name, "params": [], **options})["params"].append(parameter)
    if not groups:
        raise ValueError("no trainable parameter: a packed model does not train, unpack it first")
    return ShiftAddOptimizer(groups.values(), lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, **kwargs)


def _sorted_parameters(model: nn.Module) -> Iterator[tuple[nn.Parameter, str, float]]:
    """Each trainable parameter once, tied ones too, with its group and eta."""
    special = {
        id(module._parameters[tensor]): (name, eta)
        for module in model.modules()
        for tensor, name, eta in _special(module)
        if module._parameters.get(tensor) is not None  # a supernet's layers borrow theirs
    }
    for parameter in model.parameters():
        if parameter.requires_grad:
            plain = "decay" if parameter.ndim > 1 else "no_decay"
            yield parameter, *special.get(id(parameter), (plain, 0.0))


def _special(module: nn.Module) -> Iterator[tuple[str, str, float]]:
    """The parameters of a layer of ours that do not train like a dense weight."""
    if isinstance(module, TokenMixer):
        distances = module.spec.op != "conv"
        yield "taps", "adder" if distances else "no_decay", module.spec.eta if distances else 0.0
    if not isinstance(module, LatentModule):
        return
    spec = module.spec
    if isinstance(spec, AdderSpec):
        yield "weight", "adder", spec.eta
    elif isinstance(spec, ShiftAddSpec):
        yield "adder_weight", "adder", spec.eta
    elif isinstance(spec, ShiftSpec) and spec.parametrization != "q":
        deepshift = spec.parametrization == "ps"
        yield "shift", "shift" if deepshift else "reference", 0.0
        yield "sign", "sign" if deepshift else "reference", 0.0
    for name in ("output_scale", "output_offset", "output_gain", "router", "router_bias", "alpha"):
        yield name, "no_decay", 0.0
