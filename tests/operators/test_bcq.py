"""Binary coding: the solver's error, its groupings, and the operator on the same bits."""

from __future__ import annotations

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from conformance import normal
from torch import Tensor

from shiftadd_transformers.operators import (
    bcq_codes,
    bcq_dequantize,
    bcq_fit,
    bcq_groups,
    bcq_linear,
    from_po2_terms,
    pack_planes,
    signed_po2_terms,
)

GROUPS = [(1, 40), (1, 7), (30, 1), (9, 1), (4, 8), (30, 40), (1, 1), (64, 64)]


def _error(weight: Tensor, signs: Tensor, alpha: Tensor, groups: tuple[int, int]) -> Tensor:
    """Squared error of every group."""
    wrong = (weight.double() - bcq_dequantize(signs, alpha.double(), *groups)).square()
    rows = [part.sum(0) for part in wrong.split(groups[0], 0)]
    return torch.stack([part.sum(1) for part in torch.stack(rows).split(groups[1], 1)], 1)


@pytest.mark.parametrize("groups", GROUPS, ids=str)
@pytest.mark.parametrize("planes", [1, 2, 3])
def test_never_worse_than_greedy_in_any_group(groups: tuple[int, int], planes: int) -> None:
    weight = normal(30, 40)
    greedy = _error(weight, *bcq_fit(weight, planes, *groups, rounds=0), groups)
    fitted = _error(weight, *bcq_fit(weight, planes, *groups), groups)
    assert (fitted <= greedy * (1 + 1e-6) + 1e-12).all()


@pytest.mark.parametrize(("planes", "best"), [(1, 0.6028), (2, 0.3428), (3, 0.1859)])
def test_error_on_a_normal_weight_is_near_the_optimal_quantiser(planes: int, best: float) -> None:
    """`best` is the Lloyd-Max quantiser of 2**P free levels; sums of ± scales and PoT rounding cost a little more."""
    weight = normal(4, 4096, dtype=torch.float64)
    signs, alpha = bcq_fit(weight, planes, 1, 4096)
    relative = (weight - bcq_dequantize(signs, alpha, 1, 4096)).norm() / weight.norm()
    assert best * 0.98 < relative < best * 1.06


@pytest.mark.parametrize("groups", GROUPS, ids=str)
def test_signs_are_nearest_and_scales_are_short_sums(groups: tuple[int, int]) -> None:
    weight = normal(30, 40)
    signs, alpha = bcq_fit(weight, 3, *groups, scale_terms=2)
    assert signs.dtype == torch.int8
    assert signs.shape == (3, 30, 40)
    assert alpha.shape == (3, -(-30 // groups[0]), -(-40 // groups[1]))
    assert torch.equal(from_po2_terms(signed_po2_terms(alpha, 2)), alpha)
    assert torch.equal(bcq_codes(weight, alpha, *groups), signs)
    distance = (weight - bcq_dequantize(signs, alpha, *groups)).abs()
    for pattern in product((-1, 1), repeat=3):
        other = torch.tensor(pattern, dtype=torch.int8).view(3, 1, 1).expand(3, 30, 40)
        assert (distance <= (weight - bcq_dequantize(other, alpha, *groups)).abs() + 1e-6).all()


@pytest.mark.parametrize("groups", [(1, 7), (9, 1), (4, 8)], ids=str)
def test_ragged_groups_are_solved_as_if_alone(groups: tuple[int, int]) -> None:
    """Padding must not leak into the fit of the last group."""
    weight = normal(30, 40)
    _, alpha = bcq_fit(weight, 2, *groups)
    rows, columns = (30 - 1) // groups[0] * groups[0], (40 - 1) // groups[1] * groups[1]
    corner = weight[rows:, columns:]
    _, alone = bcq_fit(corner, 2, *corner.shape)
    assert torch.equal(alpha[:, -1, -1], alone[:, 0, 0])


def test_exact_weights_are_found() -> None:
    true_alpha = torch.tensor([2.0, 0.75, 0.25]).view(3, 1, 1)
    true_signs = torch.where(normal(3, 8, 64) > 0, 1, -1)
    weight = bcq_dequantize(true_signs, true_alpha, 8, 64)
    signs, alpha = bcq_fit(weight, 3, 8, 64)
    assert torch.equal(alpha, true_alpha)
    assert torch.equal(bcq_dequantize(signs, alpha, 8, 64), weight)


@pytest.mark.parametrize("scale", [1e-15, 1.0, 1e15])
def test_error_does_not_depend_on_the_unit(scale: float) -> None:
    weight = normal(6, 40, dtype=torch.float64) * scale
    signs, alpha = bcq_fit(weight, 3, 1, 40)
    assert (weight - bcq_dequantize(signs, alpha, 1, 40)).norm() / weight.norm() < 0.22


def test_degenerate_groups() -> None:
    weight = torch.tensor([[0.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [4.0, 0.0, -4.0]])
    signs, alpha = bcq_fit(weight, 3, 1, 3)
    assert torch.isfinite(alpha).all()
    assert torch.equal(bcq_dequantize(signs, alpha, 1, 3), weight)


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (1, 1)])
def test_tiny_weights(shape: tuple[int, int]) -> None:
    signs, alpha = bcq_fit(torch.ones(shape), 2, 2, 8)
    assert signs.shape == (2, *shape)
    assert alpha.shape == (2, -(-shape[0] // 2), -(-shape[1] // 8))


def test_dtypes_and_layout() -> None:
    weight = normal(30, 40)
    expected = bcq_fit(weight.bfloat16().float(), 2, 4, 8)
    for actual, wanted in zip(bcq_fit(weight.bfloat16(), 2, 4, 8), expected, strict=True):
        assert torch.equal(actual, wanted)
    assert bcq_fit(weight.double(), 2, 4, 8)[1].dtype == torch.float64
    transposed = bcq_fit(weight.t().contiguous().t(), 2, 4, 8)
    assert torch.equal(transposed[0], bcq_fit(weight, 2, 4, 8)[0])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("grouping", ["row", "column", "block"])
def test_operator_equals_linear_of_the_decoded_weight_to_the_bit(grouping: str, dtype: torch.dtype) -> None:
    weight, x, bias = normal(30, 44, dtype=dtype), normal(5, 44, seed=1, dtype=dtype), normal(30, seed=2, dtype=dtype)
    groups = bcq_groups(grouping, None, 30, 44)
    signs, alpha = bcq_fit(weight, 3, *groups)
    y = bcq_linear(x, pack_planes(signs), signed_po2_terms(alpha, 3), bias, *groups)
    assert torch.equal(y, F.linear(x, bcq_dequantize(signs, alpha, *groups), bias))


def test_dequantise_passes_gradients_to_the_scales() -> None:
    signs = torch.where(normal(2, 6, 5) > 0, 1, -1)
    alpha = normal(2, 3, 1, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda a: bcq_dequantize(signs, a, 2, 5), (alpha,))


def test_named_groupings() -> None:
    assert bcq_groups("row", None, 30, 40) == (1, 40)
    assert bcq_groups("row", 16, 30, 40) == (1, 16)
    assert bcq_groups("column", None, 30, 40) == (30, 1)
    assert bcq_groups("block", None, 64, 40) == (8, 8)
    assert bcq_groups("block", 16, 64, 40) == (16, 8)


def test_mistakes_are_explained() -> None:
    weight = normal(4, 16)
    for fault in (torch.nan, torch.inf):
        broken = weight.clone()
        broken[1, 2] = fault
        with pytest.raises(ValueError, match="NaN"):
            bcq_fit(broken, 2, 1, 16)
    with pytest.raises(ValueError, match=r"1\.\.8"):
        bcq_fit(weight, 0, 1, 16)
    with pytest.raises(ValueError, match="positive"):
        bcq_fit(weight, 2, 0, 16)
    with pytest.raises(ValueError, match="row, column, block"):
        bcq_groups("diagonal", None, 4, 16)
    signs, alpha = bcq_fit(weight, 2, 1, 16)
    codes, planes = signed_po2_terms(alpha, 3), pack_planes(signs)
    with pytest.raises(ValueError, match="scale_codes"):
        bcq_linear(normal(2, 16), planes, codes, None, 2, 16)
    with pytest.raises(ValueError, match="planes_packed"):
        bcq_linear(normal(2, 16), planes.int(), codes, None, 1, 16)
