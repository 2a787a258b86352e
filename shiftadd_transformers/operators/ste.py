"""How does a gradient pass a step that has none?

Every straight-through estimator of the project is here. Each gives an exact forward value and states the gradient
that stands in for the true one, which is zero almost everywhere.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .exponent_bits import nearest_power, power_of_two, work_dtype


def straight_through(x: Tensor, y: Tensor) -> Tensor:
    """The value of ``y`` with the gradient of ``x``.

    A NaN or an infinity in ``x`` gives NaN, so that rounding cannot hide it.

    Args:
        x: floating, any shape; receives the gradient.
        y: what ``x`` was rounded to, same shape.

    Returns:
        ``y``, to the bit.

    >>> x = torch.tensor([0.7], requires_grad=True)
    >>> straight_through(x, x.round()).backward()
    >>> x.grad
    tensor([1.])

    References: Bengio et al., 2013.
    """
    return y.detach() + (x - x.detach()).to(y.dtype)


def sign_ste(x: Tensor) -> Tensor:
    """``+1`` where ``x >= 0``, else ``-1``; identity gradient.

    >>> sign_ste(torch.tensor([-0.2, 0.0]))
    tensor([-1.,  1.])
    """
    return straight_through(x, (x >= 0).to(x.dtype) * 2 - 1)


def indicator_ste(x: Tensor) -> Tensor:
    """``1`` where ``x >= 0``, else ``0``; identity gradient.

    >>> indicator_ste(torch.tensor([-0.2, 0.0]))
    tensor([0., 1.])
    """
    return straight_through(x, (x >= 0).to(x.dtype))


def po2_scale_ste(x: Tensor) -> Tensor:
    """The nearest power of two in the log domain, with the sign of ``x``; identity gradient. Zero stays zero.

    >>> po2_scale_ste(torch.tensor([1.4, -1.42, 0.0]))
    tensor([ 1., -2.,  0.])
    """
    magnitude = x.detach().to(work_dtype(x.dtype)).abs()
    largest = 2.0 ** (math.frexp(torch.finfo(x.dtype).max)[1] - 1)
    power = nearest_power(magnitude).clamp(max=largest)
    return straight_through(x, torch.copysign(power, x.detach()).to(x.dtype))


def ps_weight(shift: Tensor, sign: Tensor, bits: int) -> Tensor:
    """The DeepShift-PS weight ``2**round(shift) * round(sign)``, sign ternary.

    ``shift`` is clamped to ``[-(2**(bits-1) - 2), 0]`` and ``sign`` to ``[-1, 1]`` before rounding half to even.
    With ``g`` the incoming gradient, ``shift`` receives ``g * weight * ln 2`` and ``sign`` receives ``g`` itself
    (not ``g * 2**shift``), so that small weights can still flip. Neither clamp stops a gradient.

    Args:
        shift: floating ``[N, K]``.
        sign: floating ``[N, K]``.
        bits: bits of one code, 2 to 5.

    Returns:
        ``[N, K]`` with values 0 and ``±2**e``, ``e`` from ``-(2**(bits-1) - 2)`` to 0.

    Raises:
        ValueError: ``bits`` is outside 2..5.

    >>> ps_weight(torch.tensor([-1.2, 5.0, 0.0]), torch.tensor([-0.9, 0.6, 0.4]), bits=4)
    tensor([-0.5000,  1.0000,  0.0000])

    References: DeepShift-PS (Elhoushi et al., 2021); gradients as in the released code.
    """
    exponent = shift.detach().clamp(_lowest_shift(bits), 0).round()
    ternary = sign.detach().clamp(-1, 1).round()
    value = power_of_two(exponent.to(torch.int32), shift.dtype) * ternary
    # `+ 0` folds the -0 that rounding small negative signs leaves behind.
    return (value + 0.0) + (shift - shift.detach()) * (value * math.log(2)) + (sign - sign.detach())


def ps_tensors_from(codes: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Shift and sign whose :func:`ps_weight` is the value of codes, up to the scale.

    The largest magnitude maps to shift 0, so ``ps_weight * 2**(2**(bits-1) - 2)`` is ``code_values``.

    Args:
        codes: uint8 ``[N, K]`` of a one-term format with zero.
        bits: bits of one code, 2 to 5.

    Returns:
        float32 ``shift`` and ``sign``, ``[N, K]``. A zero gets sign 0 and the lowest shift.

    Raises:
        ValueError: ``bits`` is outside 2..5.

    >>> ps_tensors_from(torch.tensor([0, 3, 7], dtype=torch.uint8), bits=3)
    (tensor([-2.,  0.,  0.]), tensor([ 0.,  1., -1.]))
    """
    index = (codes & ((1 << (bits - 1)) - 1)).to(torch.float32)
    shift = (index - 1 + _lowest_shift(bits)).clamp(min=_lowest_shift(bits))
    negative = (codes >> (bits - 1)).to(torch.float32)
    return shift, (index > 0) * (1 - 2 * negative) + 0.0


def denseshift_weight(sign: Tensor, shift: Tensor) -> Tensor:
    """The DenseShift weight ``±2**S``, never zero.

    ``S`` counts upwards through the shift tensors: ``S <- (S + 1) * 1[t >= 0]``, from 0 and in ascending order, so a
    negative tensor resets it and the last one rules. The gradient is that of ``sgn(sign) * sqrt(S + 1)`` with identity
    estimators for sign and indicators, which acts as a local rescaling of the learning rate.

    Args:
        sign: floating ``[N, K]``; zero counts as positive.
        shift: floating ``[S_max, N, K]``; ``S_max = 2**(bits-1) - 1``.

    Returns:
        ``[N, K]`` with values ``±1 .. ±2**S_max``.

    Raises:
        ValueError: shapes do not fit.

    >>> denseshift_weight(torch.tensor([-0.1, 0.1]), torch.tensor([[1.0, -1.0], [1.0, 1.0]]))
    tensor([-4.,  2.])

    References: DenseShift (Li et al., ICCV 2023); recursion and surrogate as in the released 3-bit layer.
    Differs: any number of shift tensors.
    """
    if shift.shape[1:] != sign.shape:
        raise ValueError(f"shift must have shape (S_max, *{tuple(sign.shape)}), got {tuple(shift.shape)}")
    count = torch.zeros_like(sign)
    for tensor in shift:
        count = (count + 1) * indicator_ste(tensor)
    positive = sign_ste(sign)
    value = positive.detach() * power_of_two(count.detach().to(torch.int32), sign.dtype)
    return straight_through(positive * torch.sqrt(count + 1), value)


def denseshift_tensors_from(exponent: Tensor, sign: Tensor, count: int, std: float = 1e-3) -> tuple[Tensor, Tensor]:
    """Sign and shift tensors of low variance whose :func:`denseshift_weight` is ``sign * 2**exponent``.

    Distances to the thresholds are drawn as ``|N(0, std**2)|``: small, so that small gradients can still move a
    weight across. Tensors that a later one overrules are free and get random signs.

    Args:
        exponent: ``S`` as integers in any dtype, ``[N, K]``, 0 to ``count``.
        sign: ``[N, K]``; negative or not.
        count: number of shift tensors ``S_max``.
        std: standard deviation of the references.

    Returns:
        float32 ``sign [N, K]`` and ``shift [S_max, N, K]``.

    Raises:
        ValueError: an exponent is outside ``0..count``.

    >>> parts = denseshift_tensors_from(torch.tensor([0, 1, 2]), torch.tensor([1, -1, 1]), count=2)
    >>> denseshift_weight(*parts)
    tensor([ 1., -2.,  4.])

    References: DenseShift (Li et al., ICCV 2023), low-variance initialisation.
    """
    inside = (exponent >= 0) & (exponent <= count)
    if not bool(inside.all()):
        raise ValueError(f"exponents must lie in 0..{count}: fit them to the same format first")
    shift = torch.randn(count, *exponent.shape, device=exponent.device) * std
    # Tensors are numbered from the last: the last S are on, the one before them is off.
    from_last = torch.arange(count, 0, -1, device=exponent.device).view(-1, *(1,) * exponent.ndim)
    ruled = torch.where(from_last <= exponent, shift.abs(), -_nonzero(shift))
    shift = torch.where(from_last <= exponent + 1, ruled, shift)
    reference = _nonzero(torch.randn(exponent.shape, device=exponent.device) * std)
    return torch.where(sign < 0, -reference, reference), shift


def _nonzero(x: Tensor) -> Tensor:
    """Magnitudes that stay on the negative side when negated: zero counts as positive."""
    return x.abs().clamp(min=torch.finfo(x.dtype).tiny)


def _lowest_shift(bits: int) -> int:
    if not (2 <= bits <= 5):
        raise ValueError(f"bits must lie in 2..5, got {bits}")
    return -((1 << (bits - 1)) - 2)
