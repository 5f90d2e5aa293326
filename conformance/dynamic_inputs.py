"""Kinds of float inputs for gemms that quantize them at run time; parameters are those of the kinds in `regimes`.

A row is what has one scale: a row of a matrix, a sample of a batch. What a row is like also depends on the seed, so
that a single one is of each kind in turn.

- generic, unequal: normal values, each row with an offset of its own.
- rows_unequal: each row on a magnitude of its own, over six decades: one scale for all of them loses the small ones.
- rows_flat: rows of zeros, of one value, of one sign, with a single value beside zeros.
- rows_extreme: magnitudes from 1e-30 to 1e30, beside which a bias would hide the small ones: it is 0.
- rows_ties: each row's scale a power of two and its values halfway between codes, zero points odd and even.
- nonfinite: every other row holds an infinity or a NaN; the rest are generic.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from quantizer_sdk.conformance.dynamic_gemms import rows_of

__all__ = ["float_inputs"]

_EXTREME = (1e-30, 1e30, 1e-12, 1e12, 1e-22, 1e22)


def float_inputs(shape: tuple[int, ...], own: int, data: str, seed: int) -> Tensor:
    """Return one float32 input.

    Args:
        shape: Its shape.
        own: How many of its first axes have a scale for each index.
        data: The kind of data.
        seed: Of the values.
    """
    generator = torch.Generator().manual_seed(7_919 * seed + 1)
    value = rows_of(torch.randn(shape, generator=generator), own)
    place = torch.arange(len(value)).reshape(-1, 1) + seed
    if data == "rows_ties":
        return _ties(value, place, generator).reshape(shape)
    if data == "rows_flat":
        return _flat(value, place).reshape(shape)
    value = value + (place % 5 - 2) * 0.6
    if data == "rows_unequal":
        value = value * 10.0 ** (3 - (place * 4 % 7))
    elif data == "rows_extreme":
        value = value * torch.tensor(_EXTREME)[place % len(_EXTREME)]
    elif data == "nonfinite":
        wrong = torch.tensor([math.inf, -math.inf, math.nan])[place // 2 % 3]
        first = torch.arange(value.shape[1]) == 0
        value = torch.where((place % 2 == 0) & first, wrong, value)
    return value.reshape(shape)


def _ties(value: Tensor, place: Tensor, generator: torch.Generator) -> Tensor:
    """Return rows whose two ends lie 255 steps apart, and all between them halfway between two."""
    lowest = -128 + 21 - place % 7  # in steps; the zero point is -128 minus that, odd in every other row
    halves = torch.randint(-60, 60, value.shape, generator=generator) + 0.5
    count = value.shape[1]
    if count > 1:
        halves[:, 0], halves[:, 1] = lowest[:, 0], lowest[:, 0] + 255
    return halves * 2.0 ** -(place % 6 + 2)


def _flat(value: Tensor, place: Tensor) -> Tensor:
    kind = place % 6
    first = torch.arange(value.shape[1]) == value.shape[1] // 2
    level = value[:, :1]
    value = torch.where(kind == 0, 0.0, value)
    value = torch.where(kind == 1, level.abs() + 0.3, value)
    value = torch.where(kind == 2, -level.abs() - 0.3, value)
    value = torch.where(kind == 3, value.abs(), value)
    value = torch.where(kind == 4, -value.abs(), value)
    return torch.where((kind == 5) & ~first, 0.0, value)
