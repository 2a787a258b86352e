"""The battery that every operator passes: see `conformance.py` for the rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conformance import OPERATORS, Arguments, Operator, normal
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

SIZES = [(0, 7, 63), (1, 1, 1), (1, 7, 100), (7, 63, 7), (63, 100, 63), (100, 1, 7), (7, 7, 0), (7, 0, 7)]
LOW_PRECISION = [torch.float32, torch.bfloat16, torch.float16]

each_operator = pytest.mark.parametrize("row", OPERATORS, ids=lambda row: row.name)


def _check(row: Operator, arguments: Arguments) -> None:
    actual, expected = row.call(*arguments), row.reference(*arguments)
    assert actual.dtype == arguments[0].dtype
    if row.exact:
        assert torch.equal(actual, expected)
    else:
        torch.testing.assert_close(actual.double(), expected.double(), rtol=1e-12, atol=1e-12, equal_nan=True)


def _with(arguments: Arguments, position: int, value: Any) -> Arguments:
    return (*arguments[:position], value, *arguments[position + 1 :])


# Operators on heads, which are no layers of `[M, K]` rows, have a file of tests each.
OF_HEADS = {"adder_attention", "adder_window", "binary_attention", "head_distances", "token_convolution"}


def test_every_registered_operator_has_a_row_or_a_file() -> None:
    names = {n.partition("::")[2] for n in torch._C._dispatch_get_all_op_names() if n.startswith("shiftadd::")}
    # Tested through the gradients of their operators.
    backward = {"adder_input_gradient", "adder_attention_gradient", "adder_window_gradient"}
    assert names == {row.schema or row.name for row in OPERATORS} | backward | OF_HEADS
    assert all(Path(__file__).with_name(f"test_{name}.py").is_file() for name in OF_HEADS)


@each_operator
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_equals_reference_in_float64(row: Operator, size: tuple[int, int, int]) -> None:
    _check(row, row.make(*size, torch.float64))


@each_operator
@pytest.mark.parametrize("dtype", LOW_PRECISION, ids=str)
def test_low_precision_error_is_bounded(row: Operator, dtype: torch.dtype) -> None:
    arguments = row.make(31, 13, 100, dtype)
    actual = row.call(*arguments)
    if row.exact:
        assert torch.equal(actual, row.reference(*arguments))
        return
    wide = tuple(a.double() if isinstance(a, Tensor) and a.is_floating_point() else a for a in arguments)
    exact = row.reference(*wide).double()
    yardstick = (row.yardstick(*arguments).double() - exact).norm()
    assert (actual.double() - exact).norm() <= 2 * yardstick + torch.finfo(dtype).tiny


@each_operator
def test_leading_axes_are_rows(row: Operator) -> None:
    arguments = row.make(12, 5, 20, torch.float64)
    flat = row.call(*arguments)
    for shape in [(3, 4), (2, 1, 6)]:
        shaped = row.call(*_with(arguments, 0, arguments[0].view(*shape, 20)))
        torch.testing.assert_close(shaped, flat.view(*shape, 5), rtol=1e-12, atol=1e-12)
    single = row.call(*_with(arguments, 0, arguments[0][0]))
    torch.testing.assert_close(single, flat[0], rtol=1e-12, atol=1e-12)


@each_operator
def test_non_contiguous_input(row: Operator) -> None:
    arguments = row.make(6, 5, 20, torch.float64)
    x = arguments[0]
    strided = torch.stack([x, x], -1)[..., 0]
    transposed = x.t().contiguous().t()
    batched = x.view(3, 2, 20).transpose(0, 1)
    assert not strided.is_contiguous()
    assert not transposed.is_contiguous()
    assert not batched.is_contiguous()
    for view in (strided, transposed, batched, x[:1].expand(6, 20)):
        _check(row, _with(arguments, 0, view))


@each_operator
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_special_values(row: Operator, dtype: torch.dtype) -> None:
    """Zeros, subnormals and the largest magnitudes that leave the result finite."""
    arguments = row.make(4, 6, 20, dtype)
    info = torch.finfo(dtype)
    large = min(info.max, torch.finfo(torch.float32).max) / 2**20
    levels = torch.tensor([0.0, info.smallest_normal / 4, -large, large], dtype=torch.float64)
    special = _with(arguments, 0, levels.unsqueeze(1).expand(4, 20).to(dtype).contiguous())
    actual, expected = row.call(*special), row.reference(*special).to(dtype)
    assert torch.isfinite(actual).all()
    if row.exact:
        assert torch.equal(actual, expected)
    else:
        # Equal inputs in a row: cancellation is bounded by the largest term, not by the sum.
        atol = info.eps * 20 * large * 64
        torch.testing.assert_close(actual, expected, rtol=20 * info.eps, atol=atol)
        torch.testing.assert_close(actual[:2], expected[:2], rtol=20 * info.eps, atol=20 * info.eps)


@each_operator
def test_faults_are_not_hidden(row: Operator) -> None:
    arguments = row.make(2, 5, 20, torch.float32)
    x = arguments[0].clone()
    x[1, 3] = torch.nan
    y = row.call(*_with(arguments, 0, x))
    assert torch.isfinite(y[0]).all()
    assert y[1].isnan().all()


@each_operator
def test_gradients(row: Operator) -> None:
    arguments = row.make(4, 5, 11, torch.float64)
    for position, surrogate in row.gradients.items():
        leaf = arguments[position].clone().requires_grad_()
        if surrogate is None:
            assert torch.autograd.gradcheck(lambda a, at=position: row.call(*_with(arguments, at, a)), (leaf,))
            continue
        grad = normal(4, 5, seed=9, dtype=torch.float64)
        row.call(*_with(arguments, position, leaf)).backward(grad)
        torch.testing.assert_close(leaf.grad, surrogate(grad, *arguments).to(leaf.dtype), rtol=1e-12, atol=1e-12)


@each_operator
@pytest.mark.parametrize("dtype", LOW_PRECISION, ids=str)
def test_gradients_keep_dtype_and_shape(row: Operator, dtype: torch.dtype) -> None:
    arguments = row.make(6, 5, 11, dtype)
    leaves = {p: arguments[p].clone().requires_grad_() for p in row.gradients}
    for position, leaf in leaves.items():
        arguments = _with(arguments, position, leaf)
    row.call(*_with(arguments, 0, arguments[0].view(2, 3, 11))).sum().backward()
    for leaf in leaves.values():
        assert leaf.grad.dtype == leaf.dtype
        assert leaf.grad.shape == leaf.shape
        assert torch.isfinite(leaf.grad).all()


@each_operator
def test_opcheck(row: Operator) -> None:
    arguments = row.make(3, 5, 11, torch.float32)
    for position in row.gradients:
        arguments = _with(arguments, position, arguments[position].clone().requires_grad_())
    arranged = row.arrange(*arguments)
    leaves = (a.detach().requires_grad_(a.requires_grad) if isinstance(a, Tensor) else a for a in arranged)
    torch.library.opcheck(row.op, tuple(leaves))


class _Call(torch.nn.Module):
    def __init__(self, row: Operator, arguments: Arguments) -> None:
        super().__init__()
        self.row, self.arguments = row, arguments

    def forward(self, x: Tensor) -> Tensor:
        return self.row.call(x, *self.arguments[1:])


@each_operator
def test_export_keeps_the_operator(row: Operator) -> None:
    arguments = row.make(4, 5, 11, torch.float32)
    rows = torch.export.Dim("rows", min=2, max=1024)
    program = torch.export.export(_Call(row, arguments), arguments[:1], dynamic_shapes=({0: rows},))
    assert row.op in {node.target for node in program.graph.nodes}
    other = row.make(9, 5, 11, torch.float32)[0]
    assert torch.equal(program.module()(other), row.call(other, *arguments[1:]))


@each_operator
def test_compile_without_graph_break(row: Operator) -> None:
    torch.compiler.reset()  # rows share one forward; its recompilations are not what is tested
    arguments = row.make(4, 5, 11, torch.float32)
    compiled = torch.compile(_Call(row, arguments), fullgraph=True, backend="aot_eager")
    x, y = (arguments[0].clone().requires_grad_() for _ in range(2))
    out, expected = compiled(x), row.call(y, *arguments[1:])
    assert torch.equal(out, expected)
    out.sum().backward()
    expected.sum().backward()
    assert torch.equal(x.grad, y.grad)


@each_operator
def test_flop_formula_is_the_stated_cost(row: Operator) -> None:
    arguments = row.make(6, 5, 11, torch.float32)
    with FlopCounterMode(display=False) as counter:
        row.call(*_with(arguments, 0, arguments[0].view(2, 3, 11)))
    assert counter.get_total_flops() == row.counts(6, 5, 11).total


@each_operator
def test_autocast_gives_what_linear_gives(row: Operator) -> None:
    arguments = row.make(6, 5, 11, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert row.call(*arguments).dtype == torch.bfloat16
    wide = row.make(6, 5, 11, torch.float64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(row.call(*wide), row.call(*wide))
        assert row.call(*wide).dtype == torch.float64


@each_operator
def test_integer_input_is_refused(row: Operator) -> None:
    arguments = row.make(2, 5, 11, torch.float32)
    with pytest.raises(ValueError, match="floating"):
        row.call(*_with(arguments, 0, arguments[0].int()))


@each_operator
def test_wrong_width_is_explained(row: Operator) -> None:
    arguments = row.make(2, 5, 16, torch.float32)
    with pytest.raises(ValueError, match="features"):
        row.call(*_with(arguments, 0, normal(2, 40)))
