"""How can one stored tensor serve operators whose trained weights are distributed differently?

Trained matrices of products are close to Gaussian, those of L1 distances to Laplacian: a squared distance is the log
likelihood of the one, an absolute distance that of the other. So the weights of a distance are a monotone map of the
shared tensor, which turns the one distribution into the other and keeps the order of the weights.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

SORTED_AT_MOST = 1 << 14
"""Weights that are sorted to compare distributions; of a larger tensor, so many at equal distances."""


class LaplaceMap(nn.Module):
    """The probability-integral transform from a normal to a Laplace distribution, `b · F⁻¹(Φ((w − μ) / σ))`.

    Written with z = (w − μ) / σ it is `−sign(z) · b · (ln 2 + ln Φ(−|z|))`: monotone, differentiable, and exact in
    the tails, where Φ itself is rounded to 1. A power-of-two rounding of the shared tensor needs no map.

    Attributes:
        center: μ, `[1]`.
        log_deviation: ln σ, `[1]`.
        log_scale: ln b, `[1]`; the result has a deviation of b·√2.

    References:
        You et al., ShiftAddNAS, ICML 2022, section 4.3. Differs: the paper's transform is learned bin by bin, which
        need not be monotone; here its family is the transform that is right if both distributions hold, with three
        learned parameters.

    >>> shared = torch.randn(64, 64, generator=torch.Generator().manual_seed(0)) * 0.1
    >>> mapped = LaplaceMap.between(shared, deviation=1.0)(shared)
    >>> bool((mapped.flatten()[shared.flatten().argsort()].diff() >= 0).all())
    True
    """

    def __init__(self, center: float, deviation: float, scale: float) -> None:
        super().__init__()
        self.center = nn.Parameter(torch.tensor([center]))
        self.log_deviation = nn.Parameter(torch.tensor([math.log(deviation)]))
        self.log_scale = nn.Parameter(torch.tensor([math.log(scale)]))

    @classmethod
    def between(cls, weight: Tensor, deviation: float) -> LaplaceMap:
        """The map of a weight as it is, to a Laplace distribution with this standard deviation."""
        values = weight.detach().float()
        return cls(float(values.mean()), float(values.std(correction=0).clamp_min(1e-8)), deviation / math.sqrt(2))

    def forward(self, weight: Tensor) -> Tensor:
        """`weight` of any shape, mapped element by element."""
        return (self.log_scale.exp() * to_laplace(self._standardised(weight))).to(weight.dtype)

    def mismatch(self, weight: Tensor) -> Tensor:
        """How far the weight is from a normal distribution, and its map from a Laplace distribution; 0 if it is not.

        The sum of two squared Wasserstein distances, each in units of its distribution's variance. It compares sorted
        values with quantiles, so it does not matter which weight is where.
        """
        z = self._standardised(_some(weight)).sort().values
        levels = (torch.arange(z.numel(), device=z.device, dtype=z.dtype) + 0.5) / z.numel()
        normal = torch.special.ndtri(levels)
        return (z - normal).square().mean() + 0.5 * (to_laplace(z) - to_laplace(normal)).square().mean()

    def _standardised(self, weight: Tensor) -> Tensor:
        return (weight.float() - self.center) * (-self.log_deviation).exp()


def to_laplace(z: Tensor) -> Tensor:
    """The values of a Laplace distribution of scale 1 at the probabilities that a standard normal one has at `z`.

    >>> to_laplace(torch.tensor([-1.0, 1.0, 9.0]))
    tensor([-1.1479,  1.1479, 42.9350])
    """
    tail = math.log(2) + torch.special.log_ndtr(-z.abs())
    return torch.where(z < 0, tail, -tail)


def _some(weight: Tensor) -> Tensor:
    """The weights to be sorted, `[n]`."""
    flat = weight.flatten()
    return flat[:: -(-flat.numel() // SORTED_AT_MOST)]
