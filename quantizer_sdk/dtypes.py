"""The types that tensors are quantized from and to, the codes each can hold, and the type that stores them."""

from __future__ import annotations

import torch

__all__ = [
    "CAST_DTYPES",
    "CODE_RANGES",
    "FLOAT_CODE_DTYPES",
    "FLOAT_DTYPES",
    "INTEGER_RANGES",
    "code_range",
    "is_cast",
    "storage_dtype",
]

FLOAT_DTYPES = (torch.float32, torch.float16, torch.bfloat16)

CAST_DTYPES = (torch.float16, torch.bfloat16)
"""Types that a tensor is merely rounded to: they have no scale, no zero point and no codes."""

INTEGER_RANGES: dict[torch.dtype, tuple[int, int]] = {
    torch.int8: (-(2**7), 2**7 - 1),
    torch.uint8: (0, 2**8 - 1),
    torch.int16: (-(2**15), 2**15 - 1),
    torch.uint16: (0, 2**16 - 1),
    torch.int32: (-(2**31), 2**31 - 1),
}

# torch names them but stores no tensors of them; their codes lie in the smallest type that can hold them.
_SUB_BYTE_RANGES: dict[torch.dtype, tuple[int, int]] = {
    getattr(torch, name): code_ends
    for bits in range(1, 8)
    for name, code_ends in {
        f"int{bits}": (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1),
        f"uint{bits}": (0, 2**bits - 1),
    }.items()
    if hasattr(torch, name)
}

# The codes of a float type are its own values; the q/dq ops round to whole ones before they cast.
_FLOAT_RANGES: dict[torch.dtype, tuple[int, int]] = {
    dtype: (int(torch.finfo(dtype).min), int(torch.finfo(dtype).max))
    for dtype in (torch.float8_e4m3fn, torch.float8_e5m2)
}

FLOAT_CODE_DTYPES = tuple(_FLOAT_RANGES)
"""Types whose codes are float values."""

CODE_RANGES = {**INTEGER_RANGES, **_SUB_BYTE_RANGES, **_FLOAT_RANGES}
"""The smallest and the largest code of every type that has codes."""


def code_range(dtype: torch.dtype, quant_min: int | None, quant_max: int | None) -> tuple[int, int]:
    """Return the smallest and the largest code: those given, and the dtype's own where none is."""
    low, high = CODE_RANGES[dtype]
    return (low if quant_min is None else quant_min, high if quant_max is None else quant_max)


def storage_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the type of the tensors that hold codes of `dtype`: int8 for int4, the type itself for most."""
    if dtype not in _SUB_BYTE_RANGES:
        return dtype
    return torch.int8 if _SUB_BYTE_RANGES[dtype][0] < 0 else torch.uint8


def is_cast(dtype: torch.dtype) -> bool:
    """Whether quantizing to this type is only a rounding to another float type."""
    return dtype in CAST_DTYPES
