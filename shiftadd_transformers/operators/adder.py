"""What does a layer compute that measures distances in place of products?

``y[m, n] = -sum_k |x[m, k] - w[n, k]|``. No ``[M, N, K]`` tensor is ever built: distances are summed tile by tile, with
a tile that fits the cache of a CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from .calling import as_rows, check_input, row_count, without_autocast
from .counts import adder_linear_counts, quantize_grid_counts
from .exponent_bits import power_of_two

# Elements of one [rows, cols, K] tile. 2 MiB of float32 measured fastest on a CPU; an accelerator needs more work per
# launch, and 16 MiB still leaves room for the copies of low-precision operands below 64 MiB.
_TILE_ELEMENTS = {"cpu": 1 << 19}
_TILE_ELEMENTS_ACCELERATOR = 1 << 22
_TILE_COLUMNS = 16
_INT8_MAX = 127


def adder_linear(x: Tensor, weight: Tensor) -> Tensor:
    """Negative L1 distance between every row of ``x`` and every template.

    ``y[m, n] = -sum_k |x[m, k] - weight[n, k]|``, accumulated in float32, or in float64 where an operand is float64.

    The gradients are surrogates, because the true ones are signs. With ``g`` the incoming gradient:
    ``weight`` receives ``g^T x - weight * (g^T 1)`` (the difference in full precision, as one matrix product) and
    ``x`` receives ``sum_n g[m, n] * clamp(weight[n] - x[m], -1, 1)``. The adaptive rescaling of the weight gradient is
    the optimizer's business. Under autocast the result has the autocast dtype; the distances stay in float32.

    Args:
        x: floating ``[..., K]``.
        weight: floating ``[N, K]``.

    Returns:
        ``[..., N]`` in the dtype of ``x``; at most 0.

    Raises:
        ValueError: shapes or dtypes do not fit.

    Cost: ``2*M*N*K`` additions (subtract and accumulate); no multiplication.

    >>> adder_linear(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 0.0], [1.0, 3.0]]))
    tensor([[-3., -1.]])

    References: AdderNet (Chen et al., CVPR 2020), eq. 2, 5 and 6. Differs: no adaptive learning rate in here.
    """
    _check(x, weight, weight.is_floating_point(), "a floating")
    return _autocast_output(x, _adder_linear(x, weight))


def adder_linear_int8(x: Tensor, weight_packed: Tensor, exponent: Tensor) -> Tensor:
    """The adder layer on one shared grid of 8-bit integers.

    ``x`` is converted to float32 and put on the grid: ``code = clamp(round_half_even(x * 2**-exponent), -127, 127)``.
    The L1 distance of integers is exact, is converted to float32 (round to nearest even), multiplied by
    ``2**exponent`` (exact) and converted to the dtype of ``x``. Both operands must share the grid, for only then is
    their difference an integer. NaN gives NaN; infinities saturate.

    ``x`` receives the surrogate gradient of :func:`adder_linear` at the unquantised ``x``.

    Args:
        x: floating ``[..., K]``.
        weight_packed: int8 ``[N, K]``.
        exponent: int8 scalar tensor in -126..120: the grid is the multiples of ``2**exponent``.

    Returns:
        ``[..., N]`` in the dtype of ``x``.

    Raises:
        ValueError: shapes or dtypes do not fit.

    Cost: ``2*M*N*K`` additions and ``M*N`` shifts, and ``M*K`` shifts and roundings onto the grid; no multiplication.

    >>> weight = torch.tensor([[0, 4]], dtype=torch.int8)
    >>> adder_linear_int8(torch.tensor([[1.1, 2.0]]), weight, torch.tensor(-1, dtype=torch.int8))
    tensor([[-1.]])

    References: AdderNet and its minimalist hardware design (Wang et al., 2021): one scale for both operands.
    """
    _check(x, weight_packed, weight_packed.dtype == torch.int8, "an int8")
    check_exponent_scalar(exponent)
    return _autocast_output(x, _adder_linear_int8(x, weight_packed, exponent))


def check_exponent_scalar(exponent: Tensor) -> None:
    """Raise unless ``exponent`` is an int8 scalar tensor."""
    if not (exponent.dtype == torch.int8 and exponent.ndim == 0):
        raise ValueError(f"exponent must be an int8 scalar tensor, got {exponent.dtype} {tuple(exponent.shape)}")


@torch.library.custom_op("shiftadd::adder_linear", mutates_args=())
def _adder_linear(x: Tensor, weight: Tensor) -> Tensor:
    work = _accumulator(x, weight)
    return l1_distance(as_rows(x), weight.to(work), x.dtype).neg_().view(_out_shape(x, weight))


@torch.library.custom_op("shiftadd::adder_linear_int8", mutates_args=())
def _adder_linear_int8(x: Tensor, weight_packed: Tensor, exponent: Tensor) -> Tensor:
    return int8_forward(x, weight_packed, exponent)


@torch.library.custom_op("shiftadd::adder_input_gradient", mutates_args=())
def adder_input_gradient(grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """``sum_n grad[m, n] * clamp(weight[n, k] - x[m, k], -1, 1)``: the HardTanh surrogate, ``[..., K]``."""
    n, k = weight.shape
    work = _accumulator(x, weight)
    rows, grads, weight = as_rows(x), as_rows(grad), weight.to(work)
    result = torch.empty(rows.shape, dtype=x.dtype, device=x.device)
    with without_autocast(x):
        for block, tiles in _tiles(rows.shape[0], n, k, x.device.type):
            here, slope = rows[block].to(work).unsqueeze(1), grads[block].to(work).unsqueeze(1)
            total = torch.zeros_like(here)
            for columns in tiles:
                clipped = (weight[columns] - here).clamp_(-1, 1)
                total.baddbmm_(slope[..., columns], clipped)
            result[block] = total.squeeze(1).to(x.dtype)
    return result.view(x.shape)


def adder_weight_gradient(grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """``sum_m grad[m, n] * (x[m, k] - weight[n, k])`` as one matrix product and a row scale, ``[N, K]``."""
    work = _accumulator(x, weight)
    grads = as_rows(grad).to(work)
    rows = as_rows(x).to(work)
    with without_autocast(x):
        return (grads.t() @ rows - weight * grads.sum(0).unsqueeze(1)).to(weight.dtype)


def int8_forward(x: Tensor, weight: Tensor, exponent: Tensor) -> Tensor:
    """Body of :func:`adder_linear_int8`, shared with the shift-add cascade."""
    k = x.shape[-1]
    grid = as_rows(x).to(torch.float32) * power_of_two(-exponent.to(torch.int32), torch.float32)
    grid = grid.round_().clamp_(-_INT8_MAX, _INT8_MAX)
    # Sums of integers are exact in floats while they fit the mantissa.
    exact = torch.float32 if (_INT8_MAX + 128) * k <= 1 << 24 else torch.float64
    distance = l1_distance(grid, weight.to(exact), torch.float32)
    return (-distance * power_of_two(exponent, torch.float32)).to(x.dtype).view(_out_shape(x, weight))


def int8_weight(weight: Tensor, exponent: Tensor) -> Tensor:
    """The templates in the units of the input: ``weight * 2**exponent``, float32."""
    return weight.to(torch.float32) * power_of_two(exponent, torch.float32)


def l1_distance(rows: Tensor, weight: Tensor, out_dtype: torch.dtype) -> Tensor:
    """``sum_k |rows[m, k] - weight[n, k]|`` in the dtype of ``weight``, stored as ``out_dtype``."""
    n, k = weight.shape
    result = torch.empty(rows.shape[0], n, dtype=out_dtype, device=rows.device)
    for block, tiles in _tiles(rows.shape[0], n, k, rows.device.type):
        here = rows[block].to(weight.dtype).unsqueeze(1)
        for columns in tiles:
            result[block, columns] = (here - weight[columns]).abs_().sum(-1).to(out_dtype)
    return result


def _tiles(m: int, n: int, k: int, device: str) -> Iterator[tuple[slice, list[slice]]]:
    """Blocks of rows, each with the blocks of columns that cover ``n``."""
    elements = _TILE_ELEMENTS.get(device, _TILE_ELEMENTS_ACCELERATOR)
    columns = max(1, min(n, _TILE_COLUMNS, elements // max(k, 1)))
    rows = max(1, elements // (columns * max(k, 1)))
    tiles = [slice(j, min(j + columns, n)) for j in range(0, n, columns)]
    for i in range(0, m, rows):
        yield slice(i, min(i + rows, m)), tiles


def _accumulator(x: Tensor, weight: Tensor) -> torch.dtype:
    return torch.float64 if torch.float64 in (x.dtype, weight.dtype) else torch.float32


def _out_shape(x: Tensor, weight: Tensor) -> tuple[int, ...]:
    return (*x.shape[:-1], weight.shape[0])


def _autocast_output(x: Tensor, y: Tensor) -> Tensor:
    device = x.device.type
    cast = torch.is_autocast_enabled(device) and y.dtype != torch.float64
    return y.to(torch.get_autocast_dtype(device)) if cast else y


def _check(x: Tensor, weight: Tensor, right_dtype: bool, wanted: str) -> None:
    check_input(x)
    if not (right_dtype and weight.ndim == 2 and weight.shape[1] == x.shape[-1]):
        raise ValueError(
            f"the weight must be {wanted} [N, {x.shape[-1]}] for x of {x.shape[-1]} features, "
            f"got {weight.dtype} {tuple(weight.shape)}"
        )


@_adder_linear.register_fake
def _adder_linear_fake(x: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty(_out_shape(x, weight))


@_adder_linear_int8.register_fake
def _adder_linear_int8_fake(x: Tensor, weight_packed: Tensor, exponent: Tensor) -> Tensor:
    return x.new_empty(_out_shape(x, weight_packed))


@adder_input_gradient.register_fake
def _adder_input_gradient_fake(grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty(x.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
    x, weight = ctx.saved_tensors
    grad_x = adder_input_gradient(grad, x, weight) if ctx.needs_input_grad[0] else None
    grad_weight = adder_weight_gradient(grad, x, weight) if ctx.needs_input_grad[1] else None
    return grad_x, grad_weight


def _backward_int8(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, None]:
    x, weight, exponent = ctx.saved_tensors
    return adder_input_gradient(grad, x, int8_weight(weight, exponent)), None, None


_adder_linear.register_autograd(_backward, setup_context=_setup_context)
_adder_linear_int8.register_autograd(_backward_int8, setup_context=_setup_context)


@register_flop_formula(torch.ops.shiftadd.adder_linear)
def _flops(x_shape: Any, weight_shape: Any, **_: Any) -> int:
    return adder_linear_counts(row_count(x_shape), *weight_shape).total


@register_flop_formula(torch.ops.shiftadd.adder_linear_int8)
def _flops_int8(x_shape: Any, weight_shape: Any, exponent_shape: Any, **_: Any) -> int:
    m, (n, k) = row_count(x_shape), weight_shape
    return (adder_linear_counts(m, n, k, scales=1) + quantize_grid_counts(m, k)).total
