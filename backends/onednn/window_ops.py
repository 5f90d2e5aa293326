"""Ops of what looks at many uint8 codes of a tensor: the largest of windows, the mean over axes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from quantizer_sdk.backends.onednn.library import call, define

__all__ = ["MAX_POOL", "MEAN", "max_pool", "mean"]


def _max_pool(x: Tensor, *window: Any) -> Tensor:
    pool = _pooled if x.numel() == 0 else torch.ops.quantized.max_pool2d.default
    return _as_batch(x, lambda batch: pool(batch, *window))


def _max_pool_fake(x: Tensor, *window: Any) -> Tensor:
    return _as_batch(x, lambda batch: _pooled(batch, *window))


def _as_batch(x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply a function of a batch of images to one image."""
    return function(x) if x.dim() == 4 else function(x.unsqueeze(0)).squeeze(0)


def _pooled(x: Tensor, *window: Any) -> Tensor:
    """Return an empty tensor like the result: axes lie in memory as they do in the operand."""
    shape = torch.max_pool2d(torch.empty_like(x, dtype=torch.float32, device="meta"), *window).shape
    y = torch.empty(shape, dtype=x.dtype, device=x.device)
    last = x.is_contiguous(memory_format=torch.channels_last)
    return y.contiguous(memory_format=torch.channels_last) if last else y


def _mean(
    x: Tensor, x_scale: float, x_zero_point: int, dim: list[int], keepdim: bool, out_scale: float, out_zero_point: int
) -> Tensor:
    count = 1
    for axis in dim:
        count *= x.shape[axis]
    total = x.sum(dim, keepdim=keepdim, dtype=torch.int32).sub_(count * x_zero_point)
    # In numpy, for float32 arithmetic on numbers.
    ratio = np.float32(x_scale) / (np.float32(out_scale) * np.float32(count))
    real = total.to(torch.float32).mul_(float(ratio)).round_().add_(float(out_zero_point))
    return real.clamp_(0.0, 255.0).to(torch.uint8)


def _mean_fake(x: Tensor, _scale: float, _zero: int, dim: Sequence[int], keepdim: bool, *_out: object) -> Tensor:
    return x.sum(list(dim), keepdim=keepdim, dtype=torch.int32).to(torch.uint8)


MAX_POOL = define(
    "max_pool(Tensor x, SymInt[] kernel_size, SymInt[] stride, SymInt[] padding, SymInt[] dilation, bool ceil_mode) "
    "-> Tensor",
    _max_pool,
    _max_pool_fake,
)
"""The largest code of each window, as `aten.max_pool2d` has them."""

MEAN = define(
    "mean(Tensor x, float x_scale, int x_zero_point, int[] dim, bool keepdim, float out_scale, int out_zero_point) "
    "-> Tensor",
    _mean,
    _mean_fake,
)
"""round(f(Σ (x - zx)) · f(sx / (s·N))) + z of uint8 codes over axes of N elements."""


def max_pool(*operands: Any) -> Tensor:
    """Call MAX_POOL with all its operands, by position."""
    return call(max_pool, MAX_POOL, _max_pool, operands)


def mean(*operands: Any) -> Tensor:
    """Call MEAN with all its operands, by position."""
    return call(mean, MEAN, _mean, operands)
