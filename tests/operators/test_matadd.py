"""Products with a binary operand on either side, as attention uses them."""

from __future__ import annotations

import pytest
import torch
from conformance import normal
from torch import Tensor

from shiftadd_transformers.operators import matadd, matadd_right, pack_planes
from shiftadd_transformers.operators.reference import matadd_reference, matadd_right_reference


def _signs(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.where(normal(*shape, seed=seed) > 0, 1.0, -1.0).to(dtype)


SHAPES = [(2, 3, 5, 7, 11), (1, 1, 4, 4, 16), (2, 3, 5, 7, 0), (0, 3, 5, 7, 9), (2, 3, 0, 7, 9), (2, 3, 5, 0, 9)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_batches_of_heads(shape: tuple[int, ...]) -> None:
    *lead, m, n, k = shape
    left, right = _signs(*lead, m, k), _signs(*lead, n, k)
    values, x = normal(*lead, k, n, dtype=torch.float64), normal(*lead, m, k, dtype=torch.float64)
    one, other = matadd(pack_planes(left), values), matadd_right(x, pack_planes(right))
    assert one.shape == other.shape == (*lead, m, n)
    torch.testing.assert_close(one, left @ values, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(other, x @ right.mT, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(one, matadd_reference(pack_planes(left), values), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(other, matadd_right_reference(x, pack_planes(right)), rtol=1e-12, atol=1e-12)


def test_the_sides_are_each_other_transposed() -> None:
    signs, values = pack_planes(_signs(2, 6, 20)), normal(2, 20, 5, dtype=torch.float64)
    torch.testing.assert_close(matadd(signs, values), matadd_right(values.mT, signs).mT, rtol=1e-12, atol=1e-12)


def test_views_of_heads() -> None:
    """Operands as a split into heads leaves them: transposed, not contiguous."""
    q = normal(2, 5, 3, 16, dtype=torch.float64).transpose(1, 2)
    packed = pack_planes(_signs(2, 7, 3, 16)).transpose(1, 2)
    assert not packed.is_contiguous()
    assert not q.is_contiguous()
    y = matadd_right(q, packed)
    assert y.is_contiguous()
    assert torch.equal(y, matadd_right(q.contiguous(), packed.contiguous()))
    assert torch.equal(matadd(packed, q.mT), matadd(packed.contiguous(), q.mT.contiguous()))


def test_each_gradient_is_a_product_of_the_same_kind() -> None:
    signs, grad = _signs(2, 6, 20), normal(2, 6, 5, dtype=torch.float64)
    values = normal(2, 20, 5, dtype=torch.float64).requires_grad_()
    matadd(pack_planes(signs), values).backward(grad)
    torch.testing.assert_close(values.grad, matadd(pack_planes(signs.mT), grad))
    x = normal(2, 5, 20, dtype=torch.float64).requires_grad_()
    matadd_right(x, pack_planes(signs)).backward(grad.mT)
    torch.testing.assert_close(x.grad, matadd_right(grad.mT, pack_planes(signs.mT)))


def test_mistakes_are_explained() -> None:
    signs, values, x = pack_planes(_signs(2, 6, 20)), normal(2, 20, 5), normal(2, 5, 20)
    with pytest.raises(ValueError, match=r"uint8 \[2, M, 3\] for values .* 20 features"):
        matadd(signs.int(), values)
    with pytest.raises(ValueError, match=r"uint8 \[2, N, 3\] for x .* 20 features"):
        matadd_right(x, signs[..., :2])
    with pytest.raises(ValueError, match="not broadcast"):
        matadd(signs[:1], values)
    with pytest.raises(ValueError, match="not broadcast"):
        matadd_right(x, signs[0])
    with pytest.raises(ValueError, match="values must be a floating matrix"):
        matadd(signs, values[0, :, 0])
