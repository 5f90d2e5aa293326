"""The op of a linear layer on uint8 codes by int8 weights, by the faster of two kernels of the same bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from quantizer_sdk.backends.onednn.codes import dequantized, is_dense
from quantizer_sdk.backends.onednn.functions import finished
from quantizer_sdk.backends.onednn.library import call, define, entry
from quantizer_sdk.backends.onednn.packing import packed
from quantizer_sdk.backends.onednn.scalars import scalar
from quantizer_sdk.backends.onednn.zeros import zeros

__all__ = ["FEW", "LINEAR", "bound_linear", "column_sums", "linear", "linear_kernel", "whole_product"]

# Up to so many results and products the plain product of integers is faster, though what follows it takes passes of
# its own; for codes these are more.
FEW, _FEW_CODES, _FEW_PRODUCTS = 16384, 2048, 2**22
_PLAIN = frozenset({"none", "relu", "hardtanh", "sigmoid"})
_STATIC, _SUMS = "static", "sums"
_PREPACK = torch.ops.onednn.qlinear_prepack.default
_POINTWISE = entry(torch.ops.onednn.qlinear_pointwise.default)
_BINARY = entry(torch.ops.onednn.qlinear_pointwise.binary)


def bound_linear(
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
    other_scale: float,
    other_zero_point: int,
) -> Callable[..., Tensor]:
    """Return `LINEAR` of CPU tensors as a function of what changes from call to call: `x` and `other`.

    It keeps what was made of the weight: who calls it again sees to it that nobody has written into that. The function
    takes the scale and the zero point of `x` as well, after these, in the place of those given here.
    """
    outputs, length = weight.shape
    result = (out_scale, out_zero_point, dtype)
    fixed = (weight_scale, zeros(outputs))
    few = 0  # rows that the plain product takes
    if activation in _PLAIN and outputs and length:
        few = min((_FEW_CODES if dtype is torch.uint8 else FEW) // outputs, _FEW_PRODUCTS // (outputs * length))
    post = ("none", []) if activation == "sigmoid" else (activation, arguments)
    given = (1.0, 0, torch.float32) if activation == "sigmoid" else result
    form: Tensor | None = None
    product: Callable[[Tensor, float, int], Tensor] | None = None

    def applied(
        x: Tensor, other: Tensor | None = None, x_scale: float = x_scale, x_zero_point: int = x_zero_point
    ) -> Tensor:
        nonlocal form, product
        count = x.numel()
        if count == 0:
            return _empty(x, outputs, dtype)
        if other is not None:
            if other.dtype is torch.uint8:
                other = dequantized(other if is_dense(other) else other.contiguous(), other_scale, other_zero_point)
            other = other.contiguous()
        if count <= few * length:
            if product is None:
                product = _bound_product(weight, weight_scale, bias)
            y = product(x, x_scale, x_zero_point)
            return finished(y if other is None else y.add_(other), activation, arguments, *result)
        if form is None:
            form = packed(weight, _STATIC, lambda: _PREPACK(weight, [count // length, length]))
        line = x.dim() == 1
        operands = (x.unsqueeze(0) if line else x, x_scale, x_zero_point, form, *fixed)
        if other is None:
            y = _POINTWISE(*operands, bias, *given, *post, algorithm)
        elif activation == "sigmoid":
            y = _POINTWISE(*operands, bias, *given, *post, algorithm).add_(other)
        else:  # always "add": "sum" would write into the operand
            beside = other.unsqueeze(0) if line else other
            y = _BINARY(*operands, beside, bias, *result, 1.0, 0, "add", 1.0, *post, algorithm)
        if activation == "sigmoid":
            y = finished(y, activation, arguments, *result)
        return y.squeeze(0) if line else y

    return applied


def linear_kernel(x: Tensor, *operands: Any) -> Tensor:
    """Compute `LINEAR` on CPU tensors."""
    bound: tuple[Any, ...] = (*operands[:-3], *operands[-2:])
    return bound_linear(*bound)(x, operands[-3])


def _bound_product(weight: Tensor, weight_scale: Tensor, bias: Tensor | None) -> Callable[[Tensor, float, int], Tensor]:
    """Return what gives (f(Σ (x - z)·w) · x_scale) · weight_scale + bias of few rows, rounded at each step."""
    sums = packed(weight, _SUMS, lambda: column_sums(weight))
    outputs = weight.shape[0]
    offsets: dict[int, Tensor] = {}

    def product(x: Tensor, x_scale: float, x_zero_point: int) -> Tensor:
        total = whole_product(x if x.dim() == 2 else x.reshape(-1, x.shape[-1]), weight)
        if x_zero_point:
            if x_zero_point not in offsets:
                offsets.clear()  # one at a time: at run time each call may have another
                offsets[x_zero_point] = sums * x_zero_point
            total.sub_(offsets[x_zero_point])
        y = torch.mul(total, scalar(x_scale)).mul_(weight_scale)
        if bias is not None:
            y.add_(bias)
        return y if x.dim() == 2 else y.view(*x.shape[:-1], outputs)

    return product


def whole_product(rows: Tensor, weight: Tensor) -> Tensor:
    """Return the int32 products of rows of codes with each output's weights."""
    if rows.shape[1] == 1:  # torch._int_mm misreads the strides of a single column
        return rows.to(torch.int32) * weight.t()
    return torch._int_mm(rows.contiguous(), weight.t())


def column_sums(weight: Tensor) -> Tensor:
    """Return the sum of each output's weights, int32."""
    return weight.sum(1, dtype=torch.int32)


def _empty(x: Tensor, outputs: int, dtype: torch.dtype) -> Tensor:
    return x.new_empty((*x.shape[:-1], outputs), dtype=dtype)


def _fake(x: Tensor, _scale: float, _zero: int, weight: Tensor, *rest: Any) -> Tensor:
    return _empty(x, weight.shape[0], rest[4])


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
