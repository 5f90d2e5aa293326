"""Quantize and dequantize in float, with gradients: straight through inside the range of codes, zero outside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from quantizer_sdk.dtypes import FLOAT_CODE_DTYPES
from quantizer_sdk.granularity import Granularity, PerAxis, PerTensor, beside_blocks, grid_of, split_blocks

__all__ = ["fake_quantize"]


def fake_quantize(
    x: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor,
    *,
    quant_min: int,
    quant_max: int,
    granularity: Granularity,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Return what dequantize yields of what quantize yields, of the shape and float type of `x`.

    The values are those of the q/dq ops that conversion emits, to the bit in float32.

    Args:
        x: A float tensor.
        scale: float32, as observers give it: [1], [channels], or of the grid's shape.
        zero_point: int32, the same.
        quant_min: Smallest code.
        quant_max: Largest code.
        granularity: How many elements share a scale.
        dtype: The type of the codes.
    """
    real = x.to(torch.float32)
    if dtype in FLOAT_CODE_DTYPES or not isinstance(granularity, (PerTensor, PerAxis)):
        block = granularity.block_of(x.shape)
        result: Any = _FakeQuantize.apply(real, scale, zero_point, quant_min, quant_max, block, dtype)  # type: ignore[no-untyped-call]
    elif isinstance(granularity, PerTensor):
        result = torch.fake_quantize_per_tensor_affine(real, scale, zero_point, quant_min, quant_max)
    else:
        axis = granularity.axis % x.dim()
        result = torch.fake_quantize_per_channel_affine(real, scale, zero_point, axis, quant_min, quant_max)
    typed: torch.Tensor = result.to(x.dtype)
    return typed


class _FakeQuantize(torch.autograd.Function):
    """The same for what torch has no op for: blocks of any shape, and codes that are floats."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        scale: torch.Tensor,
        zero_point: torch.Tensor,
        quant_min: int,
        quant_max: int,
        block: Sequence[int],
        dtype: torch.dtype,
    ) -> torch.Tensor:
        grid = grid_of(block, x.shape)
        step, zero = beside_blocks(scale, grid), beside_blocks(zero_point, grid)
        codes = torch.round(split_blocks(x, block) * (1.0 / step)) + zero
        ctx.save_for_backward(((codes >= quant_min) & (codes <= quant_max)).reshape(x.shape))
        codes = codes.clamp(quant_min, quant_max)
        if dtype in FLOAT_CODE_DTYPES:
            codes = codes.to(dtype).to(torch.float32)
        return ((codes - zero) * step).reshape(x.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (inside,) = ctx.saved_tensors
        return gradients[0] * inside, None, None, None, None, None, None
