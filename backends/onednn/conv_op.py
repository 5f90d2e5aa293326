"""The op of a convolution on uint8 codes by int8 weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from quantizer_sdk.backends.onednn.codes import dequantized
from quantizer_sdk.backends.onednn.functions import finished
from quantizer_sdk.backends.onednn.library import call, define
from quantizer_sdk.backends.onednn.packing import packed
from quantizer_sdk.backends.onednn.zeros import zeros

__all__ = ["CONV", "conv"]

_OPS = torch.ops.onednn
_PREPACK = _OPS.qconv_prepack.default
_POINTWISE, _BINARY = _OPS.qconv_pointwise.default, _OPS.qconv2d_pointwise.binary
_VOLUME = 5  # axes of a batch of volumes, for which the kernel takes nothing that follows
_FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


def _conv(
    x: Tensor,
    x_scale: float,
    x_zero_point: int,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    out_scale: float,
    out_zero_point: int,
    dtype: torch.dtype,
    activation: str,
    arguments: list[float],
    other: Tensor | None,
    other_scale: float,
    other_zero_point: int,
) -> Tensor:
    rank = weight.dim()
    if x.dim() < rank:
        rest = (bias, stride, padding, dilation, groups, out_scale, out_zero_point, dtype, activation, arguments)
        beside = None if other is None else other.unsqueeze(0)
        one = (x.unsqueeze(0), x_scale, x_zero_point, weight, weight_scale, *rest)
        return _conv(*one, beside, other_scale, other_zero_point).squeeze(0)
    if x.numel() == 0:
        return _empty(x, weight, stride, padding, dilation, dtype)
    if rank == 3:  # an image of one row
        x, stride, padding, dilation = x.unsqueeze(2), [1, *stride], [0, *padding], [1, *dilation]
        other = None if other is None else other.unsqueeze(2)
    key = (x_scale, x_zero_point, *stride, *padding, *dilation, groups)
    window = (stride, padding, dilation, groups)
    form = packed(
        weight,
        key,
        lambda: _PREPACK(
            weight.unsqueeze(2) if rank == 3 else weight,
            *(weight_scale, x_scale, x_zero_point, *window, list(x.shape)),
        ),
    )
    operands = (x, x_scale, x_zero_point, form, weight_scale, zeros(weight.shape[0]))
    result = (out_scale, out_zero_point, dtype)
    if rank == _VOLUME and (other is not None or activation != "none"):
        y: Tensor = _POINTWISE(*operands, bias, *window, 1.0, 0, torch.float32, "none", [], "")
        if other is not None:
            y.add_(other if other.dtype is torch.float32 else dequantized(other, other_scale, other_zero_point))
        y = finished(y, activation, arguments, *result)
    elif other is None:
        y = _POINTWISE(*operands, bias, *window, *result, activation, arguments, "")
    else:
        # The kernel adds to the tensor that it is given and writes its result there: give it one of its own.
        if other.dtype is torch.uint8 and dtype is torch.float32:
            other, other_scale, other_zero_point = dequantized(other, other_scale, other_zero_point), 1.0, 0
        total = torch.empty_like(other, memory_format=_FORMATS[other.dim()]).copy_(other)
        y = _BINARY(
            *(*operands, total, bias, *window, *result, other_scale, other_zero_point),
            *("sum", 1.0, activation, arguments, ""),
        )
    return y.squeeze(2) if rank == 3 else y


def _empty(
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    dtype: torch.dtype,
) -> Tensor:
    """Return an empty tensor like the result: the axis of channels is the innermost."""
    sizes = [
        (size + 2 * p - d * (k - 1) - 1) // s + 1
        for size, k, s, p, d in zip(x.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
    ]
    return torch.empty((x.shape[0], *sizes, weight.shape[0]), dtype=dtype, device=x.device).movedim(-1, 1)


def _fake(x: Tensor, _scale: float, _zero: int, weight: Tensor, _scales: Tensor, _bias: Any, *rest: Any) -> Tensor:
    stride, padding, dilation, dtype = rest[0], rest[1], rest[2], rest[6]
    if x.dim() < weight.dim():
        return _empty(x.unsqueeze(0), weight, stride, padding, dilation, dtype).squeeze(0)
    return _empty(x, weight, stride, padding, dilation, dtype)


CONV = define(
    "conv(Tensor x, float x_scale, int x_zero_point, Tensor weight, Tensor weight_scale, Tensor? bias, "
    "SymInt[] stride, SymInt[] padding, SymInt[] dilation, SymInt groups, float out_scale, int out_zero_point, "
    "ScalarType dtype, str activation, float[] arguments, Tensor? other, float other_scale, int other_zero_point) "
    "-> Tensor",
    _conv,
    _fake,
)
"""A convolution, and what follows it at once.

Of uint8 codes `x` and int8 weights with one scale for each output channel; then plus `other`, then the activation, then
as float32 or, with `dtype` uint8, as codes.
"""


def conv(*operands: Any) -> Tensor:
    """Call CONV with all its operands, by position."""
    return call(conv, CONV, _conv, operands)
