"""The op of a linear layer on uint8 codes by int8 weights, by the faster of two kernels of the same bits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from quantizer_sdk.backends.onednn.codes import rounded
from quantizer_sdk.backends.onednn.library import define
from quantizer_sdk.backends.onednn.packing import packed
from quantizer_sdk.backends.onednn.zeros import zeros

__all__ = ["LINEAR", "column_sums", "product"]

# Up to so many results the plain product of integers is faster, though what follows it takes passes of its own.
_FEW = 16384
_PLAIN = frozenset({"none", "relu", "hardtanh"})
_STATIC = "static"


def _linear(
    x: Tensor,
    x_scale: float,
    x_zero_point: int,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    out_scale: float,
    out_zero_point: int,
    dtype: torch.dtype,
    activation: str,
    arguments: list[float],
    algorithm: str,
    other: Tensor | None,
) -> Tensor:
    shape = (*x.shape[:-1], weight.shape[0])
    if x.numel() == 0:
        return x.new_empty(shape, dtype=dtype)
    rows = x.reshape(-1, x.shape[-1])
    beside = None if other is None else other.reshape(-1, shape[-1])
    quantized = dtype is torch.uint8
    if rows.shape[0] * shape[-1] <= _FEW and activation in _PLAIN:
        y = product(rows, x_scale, x_zero_point, weight, weight_scale, bias)
        y = y if beside is None else y.add_(beside)
        if activation == "relu":
            y.relu_()
        elif activation == "hardtanh":
            y.clamp_(*arguments)
        return (_codes(y, out_scale, out_zero_point) if quantized else y).view(shape)
    ops = torch.ops.onednn
    form = packed(weight, _STATIC, lambda: ops.qlinear_prepack(weight, list(rows.shape)))
    operands = (rows, x_scale, x_zero_point, form, weight_scale, zeros(shape[-1]))
    result = (out_scale, out_zero_point, dtype)
    if beside is None:
        y = ops.qlinear_pointwise.default(*operands, bias, *result, activation, arguments, algorithm)
    else:  # always "add": "sum" would write into the operand
        post = ("add", 1.0, activation, arguments, algorithm)
        y = ops.qlinear_pointwise.binary(*operands, beside.contiguous(), bias, *result, 1.0, 0, *post)
    return y.view(shape)


def product(
    rows: Tensor, x_scale: float | Tensor, x_zero_point: int, weight: Tensor, scale: Tensor, bias: Tensor | None
) -> Tensor:
    """Return (f(Σ (x - z)·w) · x_scale) · weight_scale + bias of a few rows of codes, rounded at each step."""
    total = torch._int_mm(rows.contiguous(), weight.t())
    if x_zero_point:
        total.sub_(packed(weight, ("sums", x_zero_point), lambda: column_sums(weight) * x_zero_point))
    y = total.to(torch.float32).mul_(x_scale).mul_(scale)
    return y if bias is None else y.add_(bias)


def column_sums(weight: Tensor) -> Tensor:
    """Return the sum of each output's weights, int32."""
    return weight.sum(1, dtype=torch.int32)


def _codes(y: Tensor, scale: float, zero_point: int) -> Tensor:
    """Return round_half_even(y · f(1 / scale) + zero_point) as uint8, as oneDNN rounds; `y` is written over."""
    return rounded(y.mul_(1.0 / scale).add_(float(zero_point)))


def _fake(x: Tensor, _scale: float, _zero: int, weight: Tensor, *rest: Any) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]), dtype=rest[4])


LINEAR = define(
    "linear(Tensor x, float x_scale, int x_zero_point, Tensor weight, Tensor weight_scale, Tensor? bias, "
    "float out_scale, int out_zero_point, ScalarType dtype, str activation, float[] arguments, str algorithm, "
    "Tensor? other) -> Tensor",
    _linear,
    _fake,
)
"""A linear layer, and what follows it at once.

Of uint8 codes `x` and int8 weights with one scale for each output; then plus the float tensor `other`, then the
activation, then as float32 or, with `dtype` uint8, as codes.
"""
