"""The op of a convolution on uint8 codes by int8 weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from quantizer_sdk.backends.onednn.codes import dequantized
from quantizer_sdk.backends.onednn.functions import finished
from quantizer_sdk.backends.onednn.library import call, define, entry
from quantizer_sdk.backends.onednn.packing import packed
from quantizer_sdk.backends.onednn.zeros import zeros

__all__ = ["CONV", "bound_conv", "conv"]

_OPS = torch.ops.onednn
_PREPACK = _OPS.qconv_prepack.default
_POINTWISE, _BINARY = entry(_OPS.qconv_pointwise.default), entry(_OPS.qconv2d_pointwise.binary)
_VOLUME = 5  # axes of a batch of volumes, for which the kernel takes nothing that follows
_FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


def bound_conv(
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
    other_scale: float,
    other_zero_point: int,
    takes_images: bool = False,
    gives_images: bool = False,
) -> Callable[..., Tensor]:
    """Return `CONV` of CPU tensors as a function of what changes from call to call: `x` and `other`.

    It keeps what was packed of the weight: who calls it again sees to it that nobody has written into that. The kernels
    know no lines: a batch of them is one of images of one row. That is also how one convolution over lines may hand
    them to the next, with `gives_images` and `takes_images`.
    """
    rank = weight.dim()
    flat = rank == 3
    if flat:  # an image of one row
        stride, padding, dilation = [1, *stride], [0, *padding], [1, *dilation]
    window = (stride, padding, dilation, groups)
    key = (x_scale, x_zero_point, *stride, *padding, *dilation, groups)
    fixed = (weight_scale, zeros(weight.shape[0]))
    result = (out_scale, out_zero_point, dtype)
    tail = (bias, *window, *result, activation, arguments, "")
    squeezed = flat and not gives_images
    axes = 4 if takes_images else rank
    form: Tensor | None = None

    def batch(x: Tensor, other: Tensor | None) -> Tensor:
        nonlocal form
        if flat:
            x = x if takes_images else x.unsqueeze(2)
            other = None if other is None else other.unsqueeze(2)
        if x.numel() == 0:
            y = _empty(x, weight.unsqueeze(2) if flat else weight, stride, padding, dilation, dtype)
            return y.squeeze(2) if squeezed else y
        if form is None:
            qparams = (weight_scale, x_scale, x_zero_point)
            shaped, shape = weight.unsqueeze(2) if flat else weight, list(x.shape)
            form = packed(weight, key, lambda: _PREPACK(shaped, *qparams, *window, shape))
        operands = (x, x_scale, x_zero_point, form, *fixed)
        if rank == _VOLUME and (other is not None or activation != "none"):
            y = _POINTWISE(*operands, bias, *window, 1.0, 0, torch.float32, "none", [], "")
            if other is not None:
                y.add_(other if other.dtype is torch.float32 else dequantized(other, other_scale, other_zero_point))
            y = finished(y, activation, arguments, *result)
        elif other is None:
            y = _POINTWISE(*operands, *tail)
        else:
            y = _summed(operands, tail, other, other_scale, other_zero_point)
        return y.squeeze(2) if squeezed else y

    def convolved(x: Tensor, other: Tensor | None = None) -> Tensor:
        if x.dim() == axes:
            return batch(x, other)
        return batch(x.unsqueeze(0), None if other is None else other.unsqueeze(0)).squeeze(0)

    return convolved


def _summed(
    operands: tuple[Any, ...], tail: tuple[Any, ...], other: Tensor, other_scale: float, other_zero_point: int
) -> Tensor:
    """Convolve and add: the kernel adds to the tensor that it is given and writes its result there."""
    *before, activation, arguments, algorithm = tail
    if other.dtype is torch.uint8 and before[-1] is torch.float32:
        other, other_scale, other_zero_point = dequantized(other, other_scale, other_zero_point), 1.0, 0
    own = torch.empty_like(other, memory_format=_FORMATS[other.dim()]).copy_(other)
    post = (other_scale, other_zero_point, "sum", 1.0, activation, arguments, algorithm)
    result: Tensor = _BINARY(*operands, own, *before, *post)
    return result


def _conv(x: Tensor, *operands: Any) -> Tensor:
    bound: tuple[Any, ...] = (*operands[:-3], *operands[-2:])
    return bound_conv(*bound)(x, operands[-3])


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
