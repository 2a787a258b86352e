"""How do two experts share the rows of a batch, and how does the router learn?

A router gives each row a *margin* ``d``: the logit of the second expert less that of the first, which is all that a
softmax over two sees. The second expert takes the row if ``d > 0``; in training, if ``d`` and a noise of standard
deviation ``s`` together are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .calling import without_autocast

LOGISTIC = 1.702
"""``sigmoid(LOGISTIC * x)`` is the normal distribution's ``Phi(x)`` to within 0.01."""

SMALLEST_SPREAD = 1e-6
"""Noise of margins that are all alike: one row has no spread to measure it by."""


def router_margins(rows: Tensor, router: Tensor, bias: Tensor) -> Tensor:
    """``d = (r_1 - r_0) . x + (b_1 - b_0)`` in at least float32, so that rounding does not decide.

    Args:
        rows: Floating ``[M, K]``.
        router: ``[2, K]``.
        bias: ``[2]``.

    Returns:
        ``[M]``.

    >>> router_margins(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 1.0], [3.0, 0.0]]), torch.zeros(2))
    tensor([1.])
    """
    wide = torch.promote_types(rows.dtype, torch.float32)
    with without_autocast(rows):
        logits = F.linear(rows.to(wide), router.to(wide), bias.to(wide))
        return logits[:, 1] - logits[:, 0]


def margin_noise(margins: Tensor, noise: float) -> Tensor:
    """The standard deviation of the noise on a batch of margins: ``noise`` times their own; a scalar."""
    if margins.shape[0] < 2:
        return margins.new_tensor(SMALLEST_SPREAD)
    return (margins.detach().std(correction=0) * noise).clamp_min(SMALLEST_SPREAD)


def mix_rows(
    rows: Tensor, second: Tensor, experts: tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]
) -> Tensor:
    """Each row through one of two experts, and only through that one.

    Args:
        rows: ``[M, K]``.
        second: bool ``[M]``; which rows go to the second expert.
        experts: Functions ``[m, K]`` to ``[m, N]``; ``m`` may be 0.

    Returns:
        ``[M, N]``, rows in their order.

    >>> mix_rows(torch.tensor([[1.0], [2.0]]), torch.tensor([True, False]), (lambda x: x, lambda x: -x)).tolist()
    [[-1.0], [2.0]]
    """
    places = [torch.nonzero(~second).squeeze(1), torch.nonzero(second).squeeze(1)]
    parts = [expert(rows[place]) for expert, place in zip(experts, places, strict=True)]
    outputs = torch.cat(parts)
    return torch.zeros_like(outputs).index_copy(0, torch.cat(places), outputs)


def gate(margins: Tensor, second: Tensor) -> Tensor:
    """Exactly 1 for every row, with the gradient of the logarithm of the chosen expert's probability.

    It is ``p / stop_gradient(p)``, without the division, which fails where a noisy choice has a tiny ``p``.

    >>> d = torch.tensor([0.0], requires_grad=True)
    >>> gate(d, torch.tensor([True])).backward()
    >>> d.grad
    tensor([0.5000])
    """
    chosen = F.logsigmoid(torch.where(second, margins, -margins))
    return 1 + (chosen - chosen.detach())


def balance_loss(margins: Tensor, noise: Tensor, latencies: tuple[float, float]) -> Tensor:
    """How far two experts are from taking the same time: ``CV^2(a_i sum_x p_i) + CV^2(a_i sum_x load_i)``.

    ``a_i`` is the latency of expert ``i``, ``p_i`` its probability by the router's softmax, ``load_i`` the probability
    that it is chosen once the noise is drawn. ``CV^2`` is the variance (over both experts, not corrected) over the
    squared mean: for two numbers ``((u - v) / (u + v))^2``, between 0 and 1.

    Args:
        margins: ``[M]``, M at least 1, before noise.
        noise: Standard deviation of the noise, a scalar.
        latencies: Of the first and the second expert, in any unit.

    Returns:
        A scalar from 0 (balanced) to 2.

    >>> balance_loss(torch.tensor([-1.0, 1.0]), torch.tensor(0.1), (1.0, 3.0))
    tensor(0.5000)

    References:
        You et al., ShiftAddViT, NeurIPS 2023; Shazeer et al., 2017 (smooth load). Differs: the noise has one draw per
        row, on the margin; the variance is that of the population; ``p`` at the temperature ``s / 1.702``, where it
        agrees with the load. At temperature 1 the mean of ``p`` is balanced at an offset of the logits that does not
        shrink with their spread, and a young router, whose logits are small, would send most rows one way.
    """
    first, second = latencies
    loss = margins.new_zeros(())
    for share in (torch.sigmoid(margins * (LOGISTIC / noise)), torch.special.ndtr(margins / noise)):
        late, early = first * (1 - share).sum(), second * share.sum()
        loss = loss + ((late - early) / (late + early)).square()
    return loss


def attach_loss(y: Tensor, loss: Tensor, weight: float) -> Tensor:
    """``y`` unchanged; whoever runs backward through it also runs ``weight * loss`` backward.

    So a layer's own loss reaches the optimizer under any trainer, whatever that computes from the model's outputs.
    Each output is differentiated once per backward pass, also when activation checkpointing computes it twice.

    Args:
        y: Any tensor; the loss counts only if ``y`` takes part in what is differentiated.
        loss: A scalar.
        weight: Of the loss, beside a loss of weight 1.

    >>> x, y = torch.tensor(3.0, requires_grad=True), torch.tensor(2.0, requires_grad=True)
    >>> attach_loss(y, x.square(), 0.5).backward()
    >>> x.grad, y.grad
    (tensor(3.), tensor(1.))
    """
    attached: Tensor = _Attach.apply(y, loss, weight)
    return attached


class _Attach(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, loss: Tensor, weight: float) -> Tensor:
        ctx.weight, ctx.dtype = weight, loss.dtype
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        (gradient,) = gradients
        return gradient, torch.full((), ctx.weight, dtype=ctx.dtype, device=gradient.device), None
