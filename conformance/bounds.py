"""How far the eager float32 graph may stray from the exact value, op by op.

`roundoff.gamma` bounds the roundings of each op; convolutions that add before they multiply (Winograd, FFT) are beyond
it.

Every bound is 0 where the arithmetic is exact: float32 holds every multiple of a power of two 2^g up to 2^(24 + g), so
on dyadic scales whole graphs often do not round at all before quantize, and then ties must go to the even code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from quantizer_sdk.conformance.exact import ExactValue, Term
from quantizer_sdk.conformance.roundoff import conversion_error, gamma, grain_of, is_float32, is_power
from quantizer_sdk.errors import UnsupportedError
from quantizer_sdk.profile import Family

__all__ = ["Evaluated", "Traced"]

_BEYOND = 2.0**40


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Evaluated:
    """An op of one tensor operand.

    Attributes:
        target: The overload.
        operand: The name of the tensor in its schema.
        options: Its other arguments by name.
    """

    target: Callable[..., Tensor]
    operand: str
    options: Mapping[str, Any]

    def __call__(self, operand: Tensor) -> Tensor:
        """Evaluate it."""
        return self.target(**{**self.options, self.operand: operand})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Traced:
    """An exact value with how far the same value in the eager float32 graph may be from it.

    Attributes:
        exact: The exact value.
        error: float64 bound on |float32 value - exact value|, elementwise.
        grain: g if every element is a multiple of 2^g in exact and in float32 arithmetic, since rounding a multiple of
            2^g to float32 gives another; None if there is no such g.
        family: Which kernel can compute it.
        stray: Number of scales in it that are no float32 numbers, each of which a runtime rounds first.
        operands: What the op that gave this value took, before rearrangements of the result.
        zero_point: That of a dequantize per tensor.
        op: For POOL and TABLE, the op that a kernel evaluates on dequantized numbers.
    """

    exact: ExactValue
    error: Tensor
    grain: int | None
    family: Family
    stray: int = 0
    operands: tuple[Traced, ...] = ()
    zero_point: int | None = None
    op: Evaluated | None = None

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
        stray = int(not all(is_float32(s) for s in term.scales))
        grain = min(grain_of(s) for s in term.scales) if all(is_power(s) for s in term.scales) else None
        error = _rounding(exact.approximate(), 1 + stray + wide, grain)
        single = zero_point if isinstance(zero_point, int) and axis is None else None
        return cls(exact=exact, error=error, grain=grain, family=Family.MOVE, stray=stray, zero_point=single)

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
            error = torch.zeros(exact.shape, dtype=torch.float64)
        else:
            exact = ExactValue.from_rational(Fraction(number))
            error = torch.tensor(conversion_error(Fraction(number)), dtype=torch.float64)
        grain = min(grain_of(scale) for scale in exact.terms[0].scales)
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
            family=Family.MOVE if all(part.family is Family.MOVE for part in parts) else Family.MIXED,
            stray=max(part.stray for part in parts),
        )

    def clamp(self, low: Fraction | None, high: Fraction | None) -> Traced:
        """Trace a clamp: it moves no two numbers apart, so it is off by its operand's error or its bounds' rounding.

        Only by the latter where the operand is beyond a bound by more than its error.
        """
        value = self.exact.approximate()
        held = torch.zeros(value.shape, dtype=torch.bool)
        held = held if low is None else held | (value + self.error <= float(low))
        held = held if high is None else held | (value - self.error >= float(high))
        ends = [end for end in (low, high) if end is not None]
        error = torch.where(held, 0.0, self.error).clamp(min=max(map(conversion_error, ends), default=0.0))
        grain = None if self.grain is None else min([self.grain, *(grain_of(end) for end in ends if end)])
        return replace(self, exact=self.exact.clamp(low, high), error=error, grain=grain)

    def add(self, other: Traced, sign: int = 1) -> Traced:
        """Trace a sum or difference: the operands' errors, then one rounding of the result."""
        exact = self.exact.add(other.exact.scaled(Fraction(sign)))
        grain = None if self.grain is None or other.grain is None else min(self.grain, other.grain)
        carried = self.error + other.error
        error = carried + _rounding(exact.approximate().abs() + carried, 1, grain)
        followed = self._followed(Family.ADD, exact, error, grain, other)
        plain = not self.exact.clamps and not other.exact.clamps
        one_gemm = sorted([self.family.value, other.family.value]) == [Family.DOT.value, Family.MOVE.value]
        return replace(followed, family=Family.DOT_ADD) if one_gemm and plain and sign == 1 else followed

    def mul(self, other: Traced) -> Traced:
        """Trace a product: each operand's error times the other operand, then one rounding of the result."""
        exact = self.exact.mul(other.exact)
        grain = None if self.grain is None or other.grain is None else self.grain + other.grain
        a, b = self.exact.approximate().abs(), other.exact.approximate().abs()
        carried = a * other.error + self.error * (b + other.error)
        error = carried + _rounding(a * b + carried, 1, grain)
        return self._followed(Family.SQUARE if other is self else Family.MUL, exact, error, grain, other)

    def mean(self, axes: Sequence[int], keepdim: bool) -> Traced:
        """Trace a mean of N elements: N - 1 additions in any order, then a division, exact if N is a power of two."""
        exact = self.exact.mean(axes, keepdim)
        count = math.prod(self.exact.shape[axis] for axis in axes)
        total = (self.exact.approximate().abs() + self.error).sum(tuple(axes), keepdim=keepdim)
        carried = self.error.sum(tuple(axes), keepdim=keepdim)
        error = (carried + _rounding(total, count - 1, self.grain)) / count
        grain = None
        if is_power(Fraction(count)):
            grain = None if self.grain is None else self.grain - grain_of(Fraction(count))
        else:
            error = error + _rounding(exact.approximate().abs() + error, 1, None)
        return self._followed(Family.MEAN, exact, error, grain)

    def table(self, op: Evaluated, ulps: float) -> Traced:
        """Trace an elementwise function that is no rational one, in float64 in the place of exact numbers.

        Float64's own error is 2^-29 of a float32 roundoff, which the allowance for `ulps` contains. An infinite result
        stands for any number beyond the range of codes.

        Args:
            op: The function. Within its operand's error it is monotone, or has one extremum and no further from it than
                from the values at both ends.
            ulps: By how many float32 roundoffs the eager float32 kernel may miss it, relative to 1 for results below 1.

        Raises:
            UnsupportedError: The operand is outside of the function's domain.
        """
        operand = self.exact.approximate()
        value = op(operand).clamp(-_BEYOND, _BEYOND)
        if value.isnan().any():
            raise UnsupportedError("an operand outside of the function's domain; expected one for which it is defined")
        ends = [(op(operand + sign * self.error).clamp(-_BEYOND, _BEYOND) - value).abs() for sign in (-1, 1)]
        carried = torch.maximum(*(end.nan_to_num(0.0) for end in ends))
        error = carried + gamma(ulps) * value.abs().clamp(min=1.0)
        error = torch.where(value.abs() < _BEYOND, error, 0.0)
        followed = replace(self._followed(Family.TABLE, ExactValue.from_float(value), error, None), op=op)
        of_gemm = self.family is Family.DOT and not self.exact.clamps
        return replace(followed, family=Family.DOT_TABLE) if of_gemm else followed

    def softmax(self, op: Evaluated, axis: int) -> Traced:
        """Trace a softmax over one axis, in float64 in the place of exact numbers.

        N exponentials of 4 roundings at most, their sum and the division make 3N + 3 relative to each result, or fewer;
        an operand that is off by e moves a result by e/2 at most, since p(1 - p) is 1/4 at most on either side.
        """
        value = op(self.exact.approximate())
        carried = self.error.amax(axis, keepdim=True).expand(value.shape)
        error = carried + gamma(3 * value.shape[axis] + 3) * value
        return replace(self._followed(Family.TABLE, ExactValue.from_float(value), error, None), op=op)

    def average(self, op: Evaluated, sums: Callable[[Tensor], Tensor], counts: Tensor) -> Traced:
        """Trace the mean over windows.

        Args:
            op: The op.
            sums: The sum over each window, of a float64 tensor.
            counts: By how many elements each sum is divided, int64.

        Raises:
            UnsupportedError: The operand's scale varies.
        """
        (term, *more) = self.exact.terms
        if more or len(term.scales) != 1 or self.exact.clamps:
            raise UnsupportedError("a mean over windows of several scales; expected one scale")
        unique, which = torch.unique(counts, return_inverse=True)
        scales = tuple(term.scales[0] / int(count) for count in unique)
        exact = ExactValue((Term(sums(term.values.double()).to(torch.int64), which, scales),))
        total = sums(self.exact.approximate().abs() + self.error)
        error = (sums(self.error) + gamma(counts + 1) * total) / counts
        return replace(self._followed(Family.POOL, exact, error, None), op=op)

    def contract(
        self,
        weight: Traced,
        bias: Traced | None,
        kernel: Callable[[Tensor, Tensor], Tensor],
        **placement: Any,
    ) -> Traced:
        """Trace a convolution, linear or matrix product with its bias; `placement` as `ExactValue.contract` takes it.

        A sum of K products rounds each product at most K times, in any order and with or without fused
        multiply-add; a bias is one more summand. With x̂ and ŵ off by u each, which is what float32 scales cost, and
        quantize's two roundings this makes ((K + 1)·(Σ|x̂ŵ| + |b|) + 2·Σ|x̂ŵ|)·u / sy + 2u·|r|.
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

    def _followed(self, family: Family, exact: ExactValue, error: Tensor, grain: int | None, *others: Traced) -> Traced:
        """Return the trace of an op's result."""
        parts = (self, *others)
        known = family if all(part.family is Family.MOVE for part in parts) else Family.MIXED
        stray = sum(part.stray for part in parts)
        return Traced(exact=exact, error=error, grain=grain, family=known, stray=stray, operands=parts)


def _rounding(magnitude: Tensor, operations: Tensor | int, grain: int | None) -> Tensor:
    """Bound the rounding of so many operations whose results stay within a magnitude and are multiples of 2^grain."""
    error = gamma(operations) * magnitude.abs()
    return error if grain is None else torch.where(magnitude.abs() <= math.ldexp(1.0, 24 + grain), 0.0, error)
