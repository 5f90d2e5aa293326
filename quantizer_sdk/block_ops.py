"""Quantize and dequantize by blocks of any shape, as ops of our own: the field's op set has none.

`quantizer_sdk::quantize_per_block`, `quantizer_sdk::dequantize_per_block` and, for qparams of each run's data,
`quantizer_sdk::choose_qparams_per_block` are registered when this module is imported, which importing `quantizer_sdk`
does; a program saved with them loads where that has been done. In a `block_size`, -1 takes the whole axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.library import custom_op

from quantizer_sdk.granularity import beside_blocks, filled, grid_of, split_blocks, to_lanes
from quantizer_sdk.qparams import choose_run_time_qparams

__all__ = ["CHOOSE_QPARAMS_PER_BLOCK", "DEQUANTIZE_PER_BLOCK", "QUANTIZE_PER_BLOCK"]


@custom_op("quantizer_sdk::choose_qparams_per_block", mutates_args=())
def _choose(
    input: torch.Tensor,  # noqa: A002  # the name that the field's ops give it
    block_size: Sequence[int],
    quant_min: int,
    quant_max: int,
    eps: float,
    dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor]:
    block = filled(block_size, input.shape)
    low, high = torch.aminmax(to_lanes(input, block), dim=1)
    scale, zero_point = choose_run_time_qparams(low, high, quant_min=quant_min, quant_max=quant_max, eps=eps)
    grid = grid_of(block, input.shape)
    return scale.reshape(grid), zero_point.reshape(grid)


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
    split = split_blocks(input.to(torch.float32), filled(block_size, input.shape))
    scale, zero_point = (beside_blocks(qparam, qparam.shape) for qparam in (scales, zero_points))
    codes = torch.round(split * (1.0 / scale)) + zero_point
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
    split = split_blocks(input.to(torch.float32), filled(block_size, input.shape))
    scale, zero_point = (beside_blocks(qparam, qparam.shape) for qparam in (scales, zero_points))
    real = (split - zero_point) * scale
    return real.to(torch.float32 if out_dtype is None else out_dtype).reshape(input.shape)


@_choose.register_fake
def _choose_fake(x: torch.Tensor, block_size: Sequence[int], *_rest: Any) -> tuple[torch.Tensor, torch.Tensor]:
    grid = [1 if part == -1 else size // part for part, size in zip(block_size, x.shape, strict=True)]
    return x.new_empty(grid, dtype=torch.float32), x.new_empty(grid, dtype=torch.int64)


@_quantize.register_fake
def _quantize_fake(x: torch.Tensor, *rest: Any) -> torch.Tensor:
    return torch.empty_like(x, dtype=rest[-1])  # dtype, the op's last operand


@_dequantize.register_fake
def _dequantize_fake(x: torch.Tensor, *_rest: Any, out_dtype: torch.dtype | None = None) -> torch.Tensor:
    return torch.empty_like(x, dtype=torch.float32 if out_dtype is None else out_dtype)


CHOOSE_QPARAMS_PER_BLOCK = torch.ops.quantizer_sdk.choose_qparams_per_block.default
QUANTIZE_PER_BLOCK = torch.ops.quantizer_sdk.quantize_per_block.default
DEQUANTIZE_PER_BLOCK = torch.ops.quantizer_sdk.dequantize_per_block.default
