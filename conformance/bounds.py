"""How far other arithmetic may stray from the exact value: the eager float32 graph, and integer kernels.

u = 2^-24 is float32's unit roundoff and γ(n) = n·u / (1 - n·u) bounds the relative error of n roundings in a row, in
any order of summation (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., §3.1). Nothing here holds where
float32 overflows or underflows, or for convolution algorithms that add before they multiply (Winograd, FFT).

Every bound is 0 where the arithmetic is exact: float32 holds every multiple of a power of two 2^g up to 2^(24 + g), so
on dyadic scales whole graphs often do not round at all before quantize, and then ties must go to the even code.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from quantizer_sdk.conformance.exact import ExactValue, Term
from quantizer_sdk.conformance.verdict import Requantized
from quantizer_sdk.errors import UnsupportedError

__all__ = ["Family", "Traced", "gamma"]

_UNIT = 2.0**-24
_MULTIPLIER_BITS = 20


def gamma(operations: Tensor | float) -> Tensor:
    """Return the relative error bound of so many float32 roundings in a row, as float64."""
    error = torch.as_tensor(operations, dtype=torch.float64) * _UNIT
    return error / (1 - error)


class Family(enum.Enum):
    """Which single integer kernel can compute a value from quantized operands, clamps included."""

    CONSTANT = enum.auto()
    MOVE = enum.auto()
    DOT = enum.auto()
    ADD = enum.auto()
    MUL = enum.auto()
    MEAN = enum.auto()
    MIXED = enum.auto()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Traced:
    """An exact value with how far the same value in the eager float32 graph may be from it.

    Attributes:
        exact: The exact value.
        error: float64 bound on |float32 value - exact value|, elementwise.
        grain: g if all elements are multiples of 2^g and float32 holds each exactly; None once anything may round.
        family: Which kernel can compute it.
        stray: Number of scales in it that are no float32 numbers, each of which a runtime rounds first.
    """

    exact: ExactValue
    error: Tensor
    grain: int | None
    family: Family
    stray: int = 0

    @classmethod
    def dequantized(
        cls,
        codes: Tensor,
        scale: float | Sequence[float],
        zero_point: int | Sequence[int],
        axis: int | None = None,
    ) -> Traced:
        """Trace a dequantize: one rounding for the product, one for a scale that is no float32 number.

        Codes or differences of 2^24 and more round as well when they become float32.
        """
        exact = ExactValue.from_quantized(codes, scale, zero_point, axis)
        term = exact.terms[0]
        wide = 2 if codes.numel() and max(int(codes.abs().max()), int(term.values.abs().max())) >= 2**24 else 0
        stray = int(not all(_is_float32(s) for s in term.scales))
        grain = min(_grain(s) for s in term.scales) if all(_is_power(s) for s in term.scales) else None
        error = _rounding(exact.approximate(), 1 + stray + wide, grain)
        return cls(exact=exact, error=error, grain=_kept(grain, error), family=Family.MOVE, stray=stray)

    @classmethod
    def constant(cls, number: Tensor | float) -> Traced:
        """Trace a float32 parameter, which is exact, or a number, which becomes the nearest float32.

        Raises:
            UnsupportedError: The parameter has another dtype than float32.
        """
        if isinstance(number, Tensor):
            if number.dtype != torch.float32:
                raise UnsupportedError(f"a constant of dtype {number.dtype}; expected float32")
            exact = ExactValue.from_float(number)
            grain = min(_grain(scale) for scale in exact.terms[0].scales)
            return cls(exact=exact, error=torch.zeros(exact.shape).double(), grain=grain, family=Family.CONSTANT)
        exact = ExactValue.from_rational(Fraction(number))
        error = torch.tensor(_conversion_error(Fraction(number)), dtype=torch.float64)
        grain = _kept(_grain(Fraction(number)), error)
        return cls(exact=exact, error=error, grain=grain, family=Family.CONSTANT)

    def move(self, function: Callable[[Tensor], Tensor]) -> Traced:
        """Trace a rearrangement, which neither rounds nor mixes elements."""
        return replace(self, exact=self.exact.move(function), error=function(self.error))

    def pad(self, pads: Sequence[int]) -> Traced:
        """Trace a padding with zeros, which are exact."""
        error = torch.nn.functional.pad(self.error, list(pads))
        return replace(self, exact=self.exact.pad(pads), error=error)

    def max_pool(self, kernel: Callable[[Tensor], Tensor]) -> Traced:
        """Trace a maximum over windows: it is off by no more than the worst element of its window."""
        return replace(self, exact=self.exact.max_pool(kernel), error=kernel(self.error))

    @staticmethod
    def cat(parts: Sequence[Traced], axis: int) -> Traced:
        """Trace a concatenation."""
        grains = [part.grain for part in parts if part.grain is not None]
        return Traced(
            exact=ExactValue.cat([part.exact for part in parts], axis),
            error=torch.cat([part.error for part in parts], axis),
            grain=min(grains) if len(grains) == len(parts) else None,
            family=_family(Family.MOVE, *parts),
            stray=max(part.stray for part in parts),
        )

    def clamp(self, low: Fraction | None, high: Fraction | None) -> Traced:
        """Trace a clamp: it moves no two numbers apart, so it is off by its operand's error or its bounds' rounding."""
        ends = [end for end in (low, high) if end is not None]
        error = self.error.clamp(min=max((_conversion_error(end) for end in ends), default=0.0))
        grains = [_grain(end) for end in ends if end]
        grain = None if self.grain is None else min([self.grain, *grains])
        return replace(self, exact=self.exact.clamp(low, high), error=error, grain=_kept(grain, error))

    def add(self, other: Traced, sign: int = 1) -> Traced:
        """Trace a sum or difference: the operands' errors, then one rounding of the result."""
        exact = self.exact.add(other.exact.scaled(Fraction(sign)))
        grain = None if self.grain is None or other.grain is None else min(self.grain, other.grain)
        carried = self.error + other.error
        error = carried + _rounding(exact.approximate().abs() + carried, 1, grain)
        return self._followed(Family.ADD, exact, error, grain, other)

    def mul(self, other: Traced) -> Traced:
        """Trace a product: each operand's error times the other operand, then one rounding of the result."""
        exact = self.exact.mul(other.exact)
        grain = None if self.grain is None or other.grain is None else self.grain + other.grain
        a, b = self.exact.approximate().abs(), other.exact.approximate().abs()
        carried = a * other.error + self.error * (b + other.error)
        error = carried + _rounding(a * b + carried, 1, grain)
        return self._followed(Family.MUL, exact, error, grain, other)

    def mean(self, axes: Sequence[int], keepdim: bool) -> Traced:
        """Trace a mean of N elements: N - 1 additions in any order, then a division, exact if N is a power of two."""
        exact = self.exact.mean(axes, keepdim)
        count = math.prod(self.exact.shape[axis] for axis in axes)
        total = (self.exact.approximate().abs() + self.error).sum(tuple(axes), keepdim=keepdim)
        carried = self.error.sum(tuple(axes), keepdim=keepdim)
        error = (carried + _rounding(total, count - 1, self.grain)) / count
        grain = None
        if _is_power(Fraction(count)):
            grain = None if self.grain is None else self.grain - _grain(Fraction(count))
        else:
            error = error + _rounding(exact.approximate().abs() + error, 1, None)
        return self._followed(Family.MEAN, exact, error, grain)

    def contract(
        self,
        weight: Traced,
        bias: Traced | None,
        kernel: Callable[[Tensor, Tensor], Tensor],
        **placement: Any,
    ) -> Traced:
        """Trace a convolution, linear or matrix product with its bias; `placement` as `ExactValue.contract` takes it.

        A sum of K products rounds each product at most K times, in any order and with or without fused
        multiply-add; a bias is one more summand. With |x̂| and |ŵ| both off by u, which is what a float32 scale
        costs, quantize's two roundings in the end make this (K + 3)·u·(Σ|x̂ŵ| + |b|) / sy + 2u·|r|.
        """
        exact = self.exact.contract(weight.exact, kernel, **placement)
        x, w = self.exact.approximate().abs(), weight.exact.approximate().abs()
        largest = kernel(x + self.error, w + weight.error)
        carried = torch.zeros(exact.shape, dtype=torch.float64)
        if self.error.any() or weight.error.any():
            carried = kernel(x, weight.error) + kernel(self.error, w + weight.error)
        operations = kernel(torch.ones_like(x), torch.ones_like(w))
        grain = None if self.grain is None or weight.grain is None else self.grain + weight.grain
        if bias is not None:
            if len(bias.exact.shape) == 1:
                bias = bias.move(lambda tensor: tensor.reshape([-1] + [1] * (-1 - placement.get("lanes", -1))))
            exact = exact.add(bias.exact)
            largest = largest + bias.exact.approximate().abs() + bias.error
            carried = carried + bias.error
            operations = operations + 1
            grain = None if grain is None or bias.grain is None else min(grain, bias.grain)
        error = carried + _rounding(largest, operations, grain)
        followed = self._followed(Family.DOT, exact, error, grain, weight)
        fused = bias is None or bias.family in {Family.CONSTANT, Family.MOVE}
        return followed if fused else replace(followed, family=Family.MIXED)
