"""How float32 rounds: the bound on roundings in a row, and which rationals it holds.

u = 2^-24 is the unit roundoff, and gamma(n) = n·u / (1 - n·u) bounds the relative error of n roundings in a row, in any
order of summation (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., §3.1). Nothing here holds where
float32 overflows or underflows.
"""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor

__all__ = ["UNIT", "conversion_error", "gamma", "grain_of", "is_float32", "is_power", "nearest_float32"]

UNIT = 2.0**-24
"""The unit roundoff u."""


def gamma(operations: Tensor | float) -> Tensor:
    """Return the relative error bound of so many float32 roundings in a row, as float64."""
    error = torch.as_tensor(operations, dtype=torch.float64) * UNIT
    return error / (1 - error)


def grain_of(number: Fraction) -> int:
    """Return the exponent of a dyadic rational's lowest set bit."""
    low_bit = number.numerator & -number.numerator
    return max(low_bit.bit_length() - 1, 0) - (number.denominator.bit_length() - 1)


def is_power(number: Fraction) -> bool:
    """Whether a positive number is a power of two."""
    return all(part & (part - 1) == 0 for part in (number.numerator, number.denominator))


def nearest_float32(number: Fraction) -> float:
    """Return the nearest float32."""
    return float(torch.tensor(float(number), dtype=torch.float32))


def conversion_error(number: Fraction) -> float:
    """Return by how much a number changes when it becomes float32."""
    return float(abs(number - Fraction(nearest_float32(number))))


def is_float32(number: Fraction) -> bool:
    """Whether float32 holds a number exactly."""
    return conversion_error(number) == 0
