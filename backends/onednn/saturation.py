"""Whether this CPU's kernels saturate when they multiply uint8 by int8: found out by doing it."""

from __future__ import annotations

import functools

import torch

__all__ = ["pairs_fit", "sums_saturate"]

_LENGTH = 64
_PAIR = 2**15


@functools.cache
def sums_saturate() -> bool:
    """Multiply the largest codes, and see whether the sum is short.

    Without VNNI, x86 adds two products in 16 bits: 2·255·127 does not fit. oneDNN uses no more of the processor than
    the environment variable ONEDNN_MAX_CPU_ISA allows.
    """
    rows = torch.full((_LENGTH, _LENGTH), 255, dtype=torch.uint8)
    column = torch.full((_LENGTH, _LENGTH), 127, dtype=torch.int8)
    form = torch.ops.onednn.qlinear_prepack(column, [_LENGTH, _LENGTH])
    ones, zeros = torch.ones(_LENGTH), torch.zeros(_LENGTH, dtype=torch.int32)
    operands = (rows, 1.0, 0, form, ones, zeros, None)
    total = torch.ops.onednn.qlinear_pointwise(*operands, 1.0, 0, torch.float32, "none", [], "")
    expected = _LENGTH * 255 * 127
    return bool((total != expected).any() or (torch._int_mm(rows, column) != expected).any())


def pairs_fit(weight: torch.Tensor, largest_code: int) -> bool:
    """Whether a CPU without VNNI adds the products without loss: two of them have to fit in 16 bits.

    Args:
        weight: int8 codes.
        largest_code: The largest code of the activation.
    """
    largest = int(weight.to(torch.int16).abs().max()) if weight.numel() else 0
    return 2 * largest_code * largest < _PAIR
