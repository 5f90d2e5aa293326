"""The float types that can be quantized, the integer types they are quantized to, and the codes each can store."""

from __future__ import annotations

import torch

__all__ = ["FLOAT_DTYPES", "INTEGER_RANGES", "code_range"]

FLOAT_DTYPES = (torch.float32, torch.float16, torch.bfloat16)

INTEGER_RANGES: dict[torch.dtype, tuple[int, int]] = {
    torch.int8: (-(2**7), 2**7 - 1),
    torch.uint8: (0, 2**8 - 1),
    torch.int16: (-(2**15), 2**15 - 1),
    torch.uint16: (0, 2**16 - 1),
    torch.int32: (-(2**31), 2**31 - 1),
}


def code_range(dtype: torch.dtype, quant_min: int | None, quant_max: int | None) -> tuple[int, int]:
    """Return the smallest and the largest code: those given, and the dtype's own where none is."""
    low, high = INTEGER_RANGES[dtype]
    return (low if quant_min is None else quant_min, high if quant_max is None else quant_max)
