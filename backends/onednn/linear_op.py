"""The op of a linear layer on uint8 codes by int8 weights, by the faster of two kernels of the same bits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from quantizer_sdk.backends.onednn.codes import dequantized, is_dense
from quantizer_sdk.backends.onednn.functions import finished
from quantizer_sdk.backends.onednn.library import call, define
from quantizer_sdk.backends.onednn.packing import packed
from quantizer_sdk.backends.onednn.zeros import zeros

__all__ = ["FEW", "LINEAR", "column_sums", "linear", "linear_kernel", "whole_product"]

# Up to so many results and products the plain product of integers is faster, though what follows it takes passes of
# its own; for codes these are more.
FEW, _FEW_CODES, _FEW_PRODUCTS = 16384, 2048, 2**22
_PLAIN = frozenset({"none", "relu", "hardtanh", "sigmoid"})
_STATIC, _SUMS = "static", "sums"
_PREPACK = torch.ops.onednn.qlinear_prepack.default
_POINTWISE, _BINARY = torch.ops.onednn.qlinear_pointwise.default, torch.ops.onednn.qlinear_pointwise.binary


def linear_kernel(
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
    other_scale: float,
    other_zero_point: int,
) -> Tensor:
    """Compute `LINEAR` on CPU tensors."""
    *axes, length = x.shape
    outputs = weight.shape[0]
    flat = len(axes) == 1
    rows = x if flat else x.reshape(-1, length)
    count = rows.shape[0]
    if count == 0 or length == 0:
        return _fake(x, x_scale, x_zero_point, weight, weight_scale, bias, out_scale, out_zero_point, dtype)
    if other is not None and other.dtype is torch.uint8:
        other = dequantized(other if is_dense(other) else other.contiguous(), other_scale, other_zero_point)
    beside = other if other is None or flat else other.reshape(count, outputs)
    result = (out_scale, out_zero_point, dtype)
    few = _FEW_CODES if dtype is torch.uint8 else FEW
    if count * outputs <= few and count * outputs * length <= _FEW_PRODUCTS and activation in _PLAIN:
        y = _product(rows, x_scale, x_zero_point, weight, weight_scale, bias)
        if beside is not None:
            y.add_(beside)
        return _shaped(finished(y, activation, arguments, *result), axes)
    form = packed(weight, _STATIC, lambda: _PREPACK(weight, list(rows.shape)))
    operands = (rows, x_scale, x_zero_point, form, weight_scale, zeros(outputs))
    if activation == "sigmoid":
        y = _POINTWISE(*operands, bias, 1.0, 0, torch.float32, "none", [], "")
        y = finished(y if beside is None else y.add_(beside), activation, arguments, *result)
    elif beside is None:
        y = _POINTWISE(*operands, bias, *result, activation, arguments, algorithm)
    else:  # always "add": "sum" would write into the operand
        post = ("add", 1.0, activation, arguments, algorithm)
        y = _BINARY(*operands, beside.contiguous(), bias, *result, 1.0, 0, *post)
    return _shaped(y, axes)


def _shaped(y: Tensor, axes: list[int]) -> Tensor:
    return y if len(axes) == 1 else y.view(*axes, y.shape[1])


def _product(
    rows: Tensor, x_scale: float, x_zero_point: int, weight: Tensor, scale: Tensor, bias: Tensor | None
) -> Tensor:
    """Return (f(Σ (x - z)·w) · x_scale) · weight_scale + bias of a few rows of codes, rounded at each step."""
    sums = packed(weight, _SUMS, lambda: column_sums(weight))
    total = whole_product(rows, weight)
    y = total.sub_(sums, alpha=x_zero_point).to(torch.float32).mul_(x_scale).mul_(scale)
    return y if bias is None else y.add_(bias)


def whole_product(rows: Tensor, weight: Tensor) -> Tensor:
    """Return the int32 products of rows of codes with each output's weights."""
    if rows.shape[1] == 1:  # torch._int_mm misreads the strides of a single column
        return rows.to(torch.int32) * weight.t()
    return torch._int_mm(rows.contiguous(), weight.t())


def column_sums(weight: Tensor) -> Tensor:
    """Return the sum of each output's weights, int32."""
    return weight.sum(1, dtype=torch.int32)


def _fake(x: Tensor, _scale: float, _zero: int, weight: Tensor, *rest: Any) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]), dtype=rest[4])


LINEAR = define(
    "linear(Tensor x, float x_scale, int x_zero_point, Tensor weight, Tensor weight_scale, Tensor? bias, "
    "float out_scale, int out_zero_point, ScalarType dtype, str activation, float[] arguments, str algorithm, "
    "Tensor? other, float other_scale, int other_zero_point) -> Tensor",
    linear_kernel,
    _fake,
)
"""A linear layer, and what follows it at once.

Of uint8 codes `x` and int8 weights with one scale for each output; then plus `other`, float32 or codes, then
the activation, then as float32 or, with `dtype` uint8, as codes.
"""


def linear(*operands: Any) -> Tensor:
    """Call LINEAR with all its operands, by position."""
    return call(linear, LINEAR, linear_kernel, operands)
