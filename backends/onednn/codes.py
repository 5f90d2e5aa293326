"""Tensors of uint8 codes as torch's quantized tensors and back, without a copy, for the kernels that want these.

torch will drop its quantized tensors after 2.13, and warns of it once; nothing of them is seen outside of this package.
"""

from __future__ import annotations

import functools
import warnings

import torch
from torch import Tensor

__all__ = ["as_codes", "as_quantized", "dequantized", "is_dense", "quantized", "rounded"]

# Up to so many elements in order, a copy costs less than a second tensor over the same memory: of codes, and back.
_FEW, _FEW_BACK = 32768, 1024


def as_quantized(codes: Tensor, scale: float, zero_point: int) -> Tensor:
    """Return a quantized tensor of uint8 codes, over their memory or with a copy of it."""
    _hush()
    if codes.numel() <= _FEW and codes.is_contiguous():
        return torch._make_per_tensor_quantized_tensor(codes, scale, zero_point)
    result = torch._empty_affine_quantized([0], scale=scale, zero_point=zero_point, dtype=torch.quint8)
    result.set_(codes.untyped_storage(), codes.storage_offset(), codes.shape, codes.stride())
    return result


def as_codes(tensor: Tensor) -> Tensor:
    """Return the uint8 codes of a quantized tensor, over its memory or with a copy of it."""
    if tensor.numel() <= _FEW_BACK and tensor.is_contiguous():
        return tensor.int_repr()
    result = torch.empty(0, dtype=torch.uint8)
    result.set_(tensor.untyped_storage(), tensor.storage_offset(), tensor.shape, tensor.stride())
    return result


def quantized(tensor: Tensor, factor: Tensor | float, zero_point: int, *, over: bool = False) -> Tensor:
    """Return round_half_even(tensor · factor) + zero_point, clipped to 0..255, as uint8.

    With f(1 / scale) as the factor, these are the bits of `quantized_decomposed.quantize_per_tensor`, in three passes
    over memory instead of five. NaN has no code that one may rely on.

    Args:
        tensor: Floats.
        factor: float32: a number, or a tensor of no axes or of the last one.
        zero_point: Of the codes.
        over: Whether the tensor may be written over.
    """
    single = isinstance(factor, float) or factor.dim() == 0
    if not tensor.is_contiguous() and single and is_dense(tensor):  # a straight pass is faster
        flat = tensor.as_strided((tensor.numel(),), (1,))
        return quantized(flat, factor, zero_point, over=over).as_strided(tensor.shape, tensor.stride())
    real = tensor.mul_(factor) if over else torch.mul(tensor, factor)
    # torch's kernel adds the zero point first: of whole numbers it gives the same.
    return rounded(real.round_() if zero_point else real, zero_point)


def rounded(real: Tensor, zero_point: int = 0) -> Tensor:
    """Return round_half_even(real + zero_point), clipped to 0..255, as uint8.

    With a zero point, `real` holds whole numbers.
    """
    _hush()
    return as_codes(torch.quantize_per_tensor(real, 1.0, zero_point, torch.quint8))


def dequantized(codes: Tensor, scale: float, zero_point: int) -> Tensor:
    """Return f(codes - zero_point) · f(scale) of uint8 codes: the bits of `dequantize_per_tensor`."""
    return as_quantized(codes, scale, zero_point).dequantize()


def is_dense(tensor: Tensor) -> bool:
    """Whether the elements fill a stretch of memory, in whatever order of axes."""
    return tensor.is_contiguous() or bool(torch.ops.aten.is_non_overlapping_and_dense.default(tensor))


@functools.cache
def _hush() -> None:
    """Have torch warn now, unseen: it warns of quantized tensors once a process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.quantize_per_tensor(torch.zeros(1), 1.0, 0, torch.quint8)
