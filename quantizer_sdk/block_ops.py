"""Quantize and dequantize by blocks of any shape, as ops of our own: the field's op set has none.

`quantizer_sdk::quantize_per_block` and `quantizer_sdk::dequantize_per_block` are registered when this module is
imported, which importing `quantizer_sdk` does; a program saved with them loads where that has been done.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.library import custom_op

__all__ = ["DEQUANTIZE_PER_BLOCK", "QUANTIZE_PER_BLOCK"]


def _split(x: torch.Tensor, block_size: Sequence[int]) -> torch.Tensor:
    """Return a tensor with two axes for each: the blocks, and the elements of one."""
    sizes = [part for size, block in zip(x.shape, block_size, strict=True) for part in (size // block, block)]
    return x.reshape(sizes)


def _by_block(qparam: torch.Tensor) -> torch.Tensor:
    """Return one number a block with an axis of 1 after each of its axes."""
    return qparam.reshape([part for size in qparam.shape for part in (size, 1)])


@custom_op("quantizer_sdk::quantize_per_block", mutates_args=())
def _quantize(
    input: torch.Tensor,  # noqa: A002  # the name that the field's ops give it
    block_size: Sequence[int],
    scales: torch.Tensor,
    zero_points: torch.Tensor,
    quant_min: int,
    quant_max: int,
    dtype: torch.dtype,
) -> torch.Tensor:
    split = _split(input.to(torch.float32), block_size)
    codes = torch.round(split * (1.0 / _by_block(scales))) + _by_block(zero_points)
    return torch.clamp(codes, quant_min, quant_max).to(dtype).reshape(input.shape)


@custom_op("quantizer_sdk::dequantize_per_block", mutates_args=())
def _dequantize(
    input: torch.Tensor,  # noqa: A002
    block_size: Sequence[int],
    scales: torch.Tensor,
    zero_points: torch.Tensor,
    quant_min: int,
    quant_max: int,
    dtype: torch.dtype,
    *,
    out_dtype: torch.dtype | None = None,
) -> torch.Tensor:
    split = _split(input.to(torch.float32), block_size)
    real = (split - _by_block(zero_points)) * _by_block(scales)
    return real.to(torch.float32 if out_dtype is None else out_dtype).reshape(input.shape)


@_quantize.register_fake
def _quantize_fake(
    input: torch.Tensor,  # noqa: A002
    block_size: Sequence[int],
    scales: torch.Tensor,
    zero_points: torch.Tensor,
    quant_min: int,
    quant_max: int,
    dtype: torch.dtype,
) -> torch.Tensor:
    return torch.empty_like(input, dtype=dtype)


@_dequantize.register_fake
def _dequantize_fake(
    input: torch.Tensor,  # noqa: A002
    block_size: Sequence[int],
    scales: torch.Tensor,
    zero_points: torch.Tensor,
    quant_min: int,
    quant_max: int,
    dtype: torch.dtype,
    *,
    out_dtype: torch.dtype | None = None,
) -> torch.Tensor:
    return torch.empty_like(input, dtype=torch.float32 if out_dtype is None else out_dtype)


QUANTIZE_PER_BLOCK = torch.ops.quantizer_sdk.quantize_per_block.default
DEQUANTIZE_PER_BLOCK = torch.ops.quantizer_sdk.dequantize_per_block.default
