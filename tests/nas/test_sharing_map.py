"""One tensor for two distributions: the map from normal to Laplace."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from search.sharing import LaplaceMap, to_laplace


def normal(*shape, deviation=0.05, center=0.01):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3)) * deviation + center


def test_it_is_the_probability_integral_transform():
    z = torch.linspace(-4, 4, 41, dtype=torch.float64)
    expected = stats.laplace.ppf(stats.norm.cdf(z.numpy()))
    torch.testing.assert_close(to_laplace(z), torch.from_numpy(expected), rtol=1e-9, atol=1e-12)


def test_tails_stay_finite_and_monotone():
    z = torch.linspace(-30, 30, 2001)
    mapped = to_laplace(z)
    assert mapped.isfinite().all()
    assert (mapped.diff() > 0).all()


def test_gradients_reach_the_weight_and_the_map():
    weight = normal(8, 8).double().requires_grad_()
    transform = LaplaceMap.between(weight, deviation=1.0).double()
    assert torch.autograd.gradcheck(lambda w, *_: to_laplace(w), (weight * 20,))
    transform(weight.float()).square().sum().backward()
    assert weight.grad.isfinite().all()
    assert (weight.grad != 0).all()
    assert all(p.grad is not None and p.grad.abs() > 0 for p in transform.parameters())


def test_normal_weights_become_laplacian_of_the_wanted_deviation():
    weight = normal(300, 300)
    transform = LaplaceMap.between(weight, deviation=0.7)
    mapped = transform(weight).detach()
    assert mapped.std().item() == pytest.approx(0.7, rel=0.02)
    assert stats.kstest(mapped.flatten().numpy()[:5000], stats.laplace(scale=0.7 / math.sqrt(2)).cdf).pvalue > 1e-3
    assert stats.kurtosis(mapped.flatten().numpy()) == pytest.approx(3, abs=0.5)  # 0 for a normal one


def test_mismatch_tells_distributions_apart():
    gaussian = normal(200, 200)
    laplacian = torch.from_numpy(stats.laplace(scale=0.05).rvs((200, 200), random_state=0)).float()
    uniform = torch.rand(200, 200, generator=torch.Generator().manual_seed(0))
    values = [LaplaceMap.between(w, 1.0).mismatch(w).item() for w in (gaussian, laplacian, uniform)]
    assert values[0] < 0.002
    assert min(values[1:]) > 20 * values[0]


def test_mismatch_does_not_care_where_a_weight_stands():
    weight = normal(40, 40)
    transform = LaplaceMap.between(weight, 1.0)
    shuffled = weight.flatten()[torch.randperm(1600, generator=torch.Generator().manual_seed(0))].view(40, 40)
    torch.testing.assert_close(transform.mismatch(weight), transform.mismatch(shuffled))


def test_the_matching_loss_can_be_minimised():
    weight = (torch.rand(30, 30, generator=torch.Generator().manual_seed(0)) - 0.5).requires_grad_()
    transform = LaplaceMap.between(weight, 1.0)
    before = transform.mismatch(weight).item()
    optimizer = torch.optim.Adam([weight, *transform.parameters()], lr=0.01)
    for _ in range(150):
        optimizer.zero_grad()
        transform.mismatch(weight).backward()
        optimizer.step()
    assert transform.mismatch(weight).item() < 0.1 * before
