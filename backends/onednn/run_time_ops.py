"""Ops of linear layers whose activation has qparams of each run's own data, one set for the tensor or one a row."""

from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from quantizer_sdk.backends.onednn.codes import quantized, rounded
from quantizer_sdk.backends.onednn.library import call, define
from quantizer_sdk.backends.onednn.linear_op import FEW, bound_linear, column_sums, linear_kernel, whole_product
from quantizer_sdk.backends.onednn.packing import packed

__all__ = [
    "LINEAR_AT_RUN_TIME",
    "QUANTIZE_AT_RUN_TIME",
    "bound_linear_at_run_time",
    "linear_at_run_time",
    "quantize_at_run_time",
    "quantize_to_numbers",
]

_MIDDLE = 128
_WHOLE = 2**24


def _quantize(x: Tensor, rows: bool, quant_min: int, quant_max: int, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    if rows:
        return _quantize_rows(x.to(torch.float32), eps)
    codes, scale, zero_point = quantize_to_numbers(x, quant_min, quant_max, eps)
    return codes, torch.tensor([scale]), torch.tensor([zero_point], dtype=torch.int32)


def quantize_to_numbers(x: Tensor, quant_min: int, quant_max: int, eps: float) -> tuple[Tensor, float, int]:
    """Compute `QUANTIZE_AT_RUN_TIME` for the tensor as a whole; its scale and zero point are numbers."""
    real = x.to(torch.float32)
    if real.numel() == 0:
        return torch.empty_like(real, dtype=torch.uint8), 1.0, 0
    # float64 has more than twice float32's digits: what is rounded to that after each step has float32's bits.
    low, high = (end.item() for end in torch.aminmax(real))
    low, high = min(low, 0.0), max(high, 0.0)
    scale = max(_float32(_float32(high - low) / (quant_max - quant_min)), _float32(eps)) or 1.0
    zero_point = quant_min
    if math.isfinite(scale):
        zero_point = min(max(quant_min - round(_float32(low / scale)), quant_min), quant_max)
    codes = quantized(real, _float32(1.0 / scale), zero_point)
    codes = codes if (quant_min, quant_max) == (0, 255) else codes.clamp_(quant_min, quant_max)
    return codes, scale, zero_point


def _float32(value: float) -> float:
    """Round to float32; what that cannot hold becomes infinite."""
    return ctypes.c_float(value).value


def _quantize_rows(x: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return what `choose_qparams_per_token_asymmetric` and `quantize_per_token` give, 128 above, in float32."""
    first, last = -_MIDDLE, _MIDDLE - 1
    # aminmax, which takes both in one pass, is many times slower along an axis.
    low, high = x.amin(-1, keepdim=True).clamp_(max=0.0), x.amax(-1, keepdim=True).clamp_(min=0.0)
    scale = torch.sub(high, low).div_(float(last - first)).clamp_(min=eps)
    inverse = torch.reciprocal(scale)
    least, most = low.mul_(inverse), high.mul_(inverse)
    nearer = (least + first) + (most + last) > 0
    zero_point = torch.where(nearer, first - least, last - most).clamp_(first, last).round_()
    codes = rounded(torch.mul(x, inverse).add_(zero_point).round_(), _MIDDLE)
    return codes, scale, zero_point.add_(float(_MIDDLE)).to(torch.int32)


def _quantize_fake(x: Tensor, rows: bool, *_rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    shape = (*x.shape[:-1], 1) if rows else (1,)
    codes = torch.empty_like(x, dtype=torch.uint8)
    return codes, x.new_empty(shape, dtype=torch.float32), x.new_empty(shape, dtype=torch.int32)


def _linear(
    x: Tensor,
    x_scale: Tensor,
    x_zero_point: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    activation: str,
    arguments: list[float],
    algorithm: str,
    other: Tensor | None,
) -> Tensor:
    if x_scale.dim() == 1:
        scale, zero_point = float(x_scale), int(x_zero_point)
        result = (1.0, 0, torch.float32, activation, arguments, algorithm, other, 1.0, 0)
        return linear_kernel(x, scale, zero_point, weight, weight_scale, bias, *result)
    shape = (*x.shape[:-1], weight.shape[0])
    if x.numel() == 0:
        return x.new_empty(shape, dtype=torch.float32)
    total = _sums(x.reshape(-1, x.shape[-1]), x_zero_point.reshape(-1), weight)
    y = total.mul_(x_scale.reshape(-1, 1)).mul_(weight_scale)
    y = y if bias is None else y.add_(bias)
    return y.view(shape)


def bound_linear_at_run_time(
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    activation: str,
    arguments: list[float],
    algorithm: str,
) -> Callable[..., Tensor]:
    """Return `LINEAR_AT_RUN_TIME` with one scale as a function of `x`, `other`, and qparams that are numbers.

    It keeps what was made of the weight, as `bound_linear` does.
    """
    result = (1.0, 0, torch.float32, activation, arguments, algorithm)
    return bound_linear(1.0, 0, weight, weight_scale, bias, *result, 1.0, 0)


def _sums(rows: Tensor, zero_points: Tensor, weight: Tensor) -> Tensor:
    """Return f(Σ (x - z)·w) of rows with zero points of their own."""
    sums, small = packed(weight, "rows", lambda: (column_sums(weight), _stays_exact(weight)))
    if rows.shape[0] * weight.shape[0] <= FEW or not small:
        total = whole_product(rows, weight)
        return torch.addr(total, zero_points, sums, alpha=-1).to(torch.float32)
    # The kernel of one zero point, that of the middle, is faster; what a row's own is beside that comes off after.
    result = linear_kernel(
        *(rows, 1.0, _MIDDLE, weight, _ones(weight.shape[0]), None, 1.0, 0, torch.float32, "none", [], "", None, 1.0, 0)
    )
    return result.addr_((zero_points - _MIDDLE).to(torch.float32), sums.to(torch.float32), alpha=-1)


def _stays_exact(weight: Tensor) -> bool:
    """Whether float32 holds 255 times the sum of the weights of each output, so that steps to less round nothing."""
    return bool(weight.to(torch.int32).abs().sum(1).max() < _WHOLE // 256)


@functools.lru_cache(maxsize=256)
def _ones(count: int) -> Tensor:
    return torch.ones(count)


def _linear_fake(x: Tensor, _scale: Tensor, _zero: Tensor, weight: Tensor, *_rest: Any) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]), dtype=torch.float32)


QUANTIZE_AT_RUN_TIME = define(
    "quantize_at_run_time(Tensor x, bool rows, int quant_min, int quant_max, float eps) -> (Tensor, Tensor, Tensor)",
    _quantize,
    _quantize_fake,
)
"""uint8 codes, float32 scales and int32 zero points of a float tensor: one set, or one for each row.

For the tensor, the bits of `quantized_decomposed.choose_qparams.tensor` and its quantize; for rows, those of
`choose_qparams_per_token_asymmetric` computed in float32, where that op takes float64.
"""

LINEAR_AT_RUN_TIME = define(
    "linear_at_run_time(Tensor x, Tensor x_scale, Tensor x_zero_point, Tensor weight, Tensor weight_scale, "
    "Tensor? bias, str activation, float[] arguments, str algorithm, Tensor? other) -> Tensor",
    _linear,
    _linear_fake,
)
"""((f(Σ (x - z)·w) · x_scale) · weight_scale) + bias, and with one scale also what follows, as `LINEAR` computes it."""


def quantize_at_run_time(*operands: Any) -> Any:
    """Call QUANTIZE_AT_RUN_TIME with all its operands, by position."""
    return call(quantize_at_run_time, QUANTIZE_AT_RUN_TIME, _quantize, operands)


def linear_at_run_time(*operands: Any) -> Tensor:
    """Call LINEAR_AT_RUN_TIME with all its operands, by position."""
    return call(linear_at_run_time, LINEAR_AT_RUN_TIME, _linear, operands)
