"""Ops between float and uint8 codes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from quantizer_sdk.backends.onednn.codes import dequantized, is_dense, quantized
from quantizer_sdk.backends.onednn.library import call, define
from quantizer_sdk.backends.onednn.scalars import scalar

__all__ = [
    "DEQUANTIZE",
    "DEQUANTIZE_CHANNELS",
    "LOOK_UP",
    "QUANTIZE",
    "bound_quantize",
    "dequantize",
    "dequantize_channels",
    "look_up",
    "quantize",
]


def bound_quantize(
    scale: float, zero_point: int, quant_min: int, quant_max: int, factor: Tensor | None = None, *, over: bool = False
) -> Callable[[Tensor], Tensor]:
    """Return QUANTIZE on CPU tensors as a function of `x`.

    Args:
        scale: As the op takes it, and
        zero_point: as well, and
        quant_min: also, and
        quant_max: too.
        factor: In the place of f(1 / scale), where that is multiplied by something first.
        over: Whether `x` may be written over.
    """
    steps = scalar(1.0 / scale) if factor is None else factor
    whole = (quant_min, quant_max) == (0, 255)

    def codes_of(x: Tensor) -> Tensor:
        codes = quantized(x if x.dtype is torch.float32 else x.to(torch.float32), steps, zero_point, over=over)
        return codes if whole else codes.clamp_(quant_min, quant_max)

    return codes_of


def _quantize(x: Tensor, *qparams: Any) -> Tensor:
    return bound_quantize(*qparams)(x)


def _quantize_fake(x: Tensor, _scale: float, _zero_point: int, _quant_min: int, _quant_max: int) -> Tensor:
    return torch.empty_like(x, dtype=torch.uint8)


def _dequantize(x: Tensor, scale: float, zero_point: int) -> Tensor:
    return dequantized(x if is_dense(x) else x.clone(), scale, zero_point)


def _dequantize_fake(x: Tensor, _scale: float, _zero_point: int) -> Tensor:
    return torch.empty_like(x, dtype=torch.float32)


def _look_up(x: Tensor, table: Tensor) -> Tensor:
    dense = x if is_dense(x) else x.clone()
    flat = dense.as_strided((dense.numel(),), (1,))
    return table.index_select(0, flat.to(torch.int32)).as_strided(dense.shape, dense.stride())


def _look_up_fake(x: Tensor, _table: Tensor) -> Tensor:
    return torch.empty_like(x)


def _dequantize_channels(x: Tensor, scales: Tensor, axis: int) -> Tensor:
    shape = [1] * x.dim()
    shape[axis] = -1
    return x.to(torch.float32).mul_(scales.view(shape))


def _dequantize_channels_fake(x: Tensor, _scales: Tensor, _axis: int) -> Tensor:
    return torch.empty_like(x, dtype=torch.float32)


QUANTIZE = define(
    "quantize(Tensor x, float scale, int zero_point, int quant_min, int quant_max) -> Tensor", _quantize, _quantize_fake
)
"""A float tensor's uint8 codes, the bits of `quantized_decomposed.quantize_per_tensor`."""

DEQUANTIZE = define("dequantize(Tensor x, float scale, int zero_point) -> Tensor", _dequantize, _dequantize_fake)
"""float32 numbers of uint8 codes, the bits of `quantized_decomposed.dequantize_per_tensor`."""

DEQUANTIZE_CHANNELS = define(
    "dequantize_channels(Tensor x, Tensor scales, int axis) -> Tensor", _dequantize_channels, _dequantize_channels_fake
)
"""float32 numbers of a weight's int8 codes around 0, the bits of `dequantize_per_channel`."""

LOOK_UP = define("look_up(Tensor x, Tensor table) -> Tensor", _look_up, _look_up_fake)
"""The codes that a table of 256 gives for uint8 codes."""


def quantize(*operands: Any) -> Tensor:
    """Call QUANTIZE with all its operands, by position."""
    return call(quantize, QUANTIZE, _quantize, operands)


def dequantize(*operands: Any) -> Tensor:
    """Call DEQUANTIZE with all its operands, by position."""
    return call(dequantize, DEQUANTIZE, _dequantize, operands)


def dequantize_channels(*operands: Any) -> Tensor:
    """Call DEQUANTIZE_CHANNELS with all its operands, by position."""
    return call(dequantize_channels, DEQUANTIZE_CHANNELS, _dequantize_channels, operands)


def look_up(*operands: Any) -> Tensor:
    """Call LOOK_UP with all its operands, by position."""
    return call(look_up, LOOK_UP, _look_up, operands)
