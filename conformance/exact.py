"""Exact values: the real tensor between dequantize and quantize, as integers times rational scales."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from quantizer_sdk.conformance.verdict import Requantized, round_exactly
from quantizer_sdk.errors import InvalidSpecError, UnsupportedError

__all__ = ["ExactValue", "Requantized", "Term"]


@dataclass(frozen=True, slots=True, eq=False)
class Term:
    """One summand: its element i is `values[i] * scales[which[i]]`.

    The index tensor is what a channel axis becomes under views and concatenation, where an axis number would be lost.

    Attributes:
        values: int64 tensor.
        which: int64 tensor of the same shape, often expanded.
        scales: Positive rationals; one for a per-tensor scale.
    """

    values: Tensor
    which: Tensor
    scales: tuple[Fraction, ...]

    def move(self, function: Callable[[Tensor], Tensor]) -> Term:
        """Return the term with its elements rearranged; elements that the function adds must be zeros."""
        return Term(function(self.values), function(self.which), self.scales)

    def zeroed(self) -> Term:
        """Return a term of the same shape that adds nothing."""
        return Term(torch.zeros_like(self.values), torch.zeros_like(self.which), (Fraction(1),))

    def floats(self, table: Sequence[Fraction]) -> Tensor:
        """Return each element's entry in `table`, as float64."""
        return torch.tensor([float(x) for x in table], dtype=torch.float64)[self.which]

    def integers(self, table: Sequence[int]) -> Tensor:
        """Return each element's entry in `table`, as int64."""
        return torch.tensor(table, dtype=torch.int64)[self.which]

    def split(self, keep: Sequence[int]) -> list[tuple[Term, Tensor]]:
        """Return terms of the same sum whose scale varies along the axes `keep` only.

        With each comes its reduced index: `which` with every other axis cut to length one.
        """
        index = self.which
        for axis in set(range(index.dim())).difference(keep):
            index = index.narrow(axis, 0, min(1, index.shape[axis]))
        if torch.equal(index.expand_as(self.which), self.which):
            return [(self, index)]
        zero = torch.zeros_like(index)
        return [
            (Term(torch.where(self.which == i, self.values, 0), zero.expand_as(self.which), (scale,)), zero)
            for i, scale in enumerate(self.scales)
        ]

    def uniform(self) -> list[tuple[Tensor, Fraction]]:
        """Return tensors of integers, each with its one scale, of the same sum."""
        return [(term.values, term.scales[int(index.sum())]) for term, index in self.split(())]


@dataclass(frozen=True, slots=True, eq=False)
class ExactValue:
    """The exact real tensor between dequantize and quantize: a sum of terms, then clamps in order.

    Attributes:
        terms: One or more terms of one shape.
        clamps: Pending (low, high), None for an open end. They stay pending since a clamped sum is no sum; operations
            that do not commute with a clamp resolve it if it falls on whole steps of a single term's scale.
    """

    terms: tuple[Term, ...]
    clamps: tuple[tuple[Fraction | None, Fraction | None], ...] = ()

    @classmethod
    def from_quantized(
        cls,
        codes: Tensor,
        scale: float | Fraction | Sequence[float],
        zero_point: int | Sequence[int] = 0,
        axis: int | None = None,
    ) -> ExactValue:
        """Return the exact dequantized value of an integer tensor, per tensor or per channel along `axis`.

        Raises:
            InvalidSpecError: A scale is not positive and finite, or there is not one for each channel.
        """
        scales = (scale,) if isinstance(scale, float | int | Fraction) else tuple(scale)
        zeros = (zero_point,) * len(scales) if isinstance(zero_point, int) else tuple(zero_point)
        shape = [1] * codes.dim()
        if axis is not None:
            shape[axis] = codes.shape[axis]
        if not len(scales) == len(zeros) == math.prod(shape) or not all(0 < s < math.inf for s in scales):
            found = f"scales {scales}, {len(zeros)} zero points"
            raise InvalidSpecError(
                f"{found}; expected {math.prod(shape)} positive finite scales and as many zero points"
            )
        values = codes.to(torch.int64) - torch.tensor(zeros, dtype=torch.int64).reshape(shape)
        which = torch.arange(len(scales)).reshape(shape).expand(codes.shape)
        return cls((Term(values, which, tuple(Fraction(s) for s in scales)),))

    @classmethod
    def from_float(cls, tensor: Tensor) -> ExactValue:
        """Return the exact value of a float32 or float64 tensor, whose elements are all dyadic rationals.

        Raises:
            InvalidSpecError: An element is NaN or infinite.
        """
        if not torch.isfinite(tensor).all():
            raise InvalidSpecError("a constant holds NaN or infinity; expected finite values")
        mantissa, exponent = torch.frexp(tensor.double())
        values = (mantissa * 2.0**53).to(torch.int64)
        low_bit = torch.where(values == 0, 1, values & -values)  # divided out, so that products stay small
        exponent = torch.where(values == 0, 0, exponent - 54 + torch.frexp(low_bit.double()).exponent)
        unique, which = torch.unique(exponent, return_inverse=True)
        return cls((Term(values // low_bit, which, tuple(Fraction(2) ** int(e) for e in unique) or (Fraction(1),)),))

    @classmethod
    def from_rational(cls, number: Fraction) -> ExactValue:
        """Return a zero-dimensional value."""
        return cls((Term(torch.tensor(1), torch.tensor(0), (Fraction(1),)),)).scaled(number)

    @property
    def shape(self) -> torch.Size:
        """The tensor's shape."""
        return self.terms[0].values.shape

    def approximate(self) -> Tensor:
        """Return the value in float64."""
        total = torch.zeros(self.shape, dtype=torch.float64)
        for term in self.terms:
            total = total + term.values * term.floats(term.scales)
        for low, high in self.clamps:
            total = total.clamp(-math.inf if low is None else float(low), math.inf if high is None else float(high))
        return total

    def move(self, function: Callable[[Tensor], Tensor]) -> ExactValue:
        """Return the value with its elements rearranged or dropped, such as a view, permutation or slice."""
        return ExactValue(tuple(term.move(function) for term in self.terms), self.clamps)

    def pad(self, pads: Sequence[int]) -> ExactValue:
        """Return the value padded with zeros; `pads` as torch.nn.functional.pad takes it."""
        padded = self if all((lo or 0) <= 0 <= (hi or 0) for lo, hi in self.clamps) else self._settled("pad")
        return padded.move(lambda tensor: torch.nn.functional.pad(tensor, list(pads)))

    @staticmethod
    def cat(values: Sequence[ExactValue], axis: int = 0) -> ExactValue:
        """Return the concatenation along an axis; scales may differ, and clamps if they can be resolved."""
        same = len({value.clamps for value in values}) == 1
        parts = values if same else [value._settled("cat") for value in values]
        terms = []
        for depth in range(max(len(part.terms) for part in parts)):
            column = [part.terms[depth] if depth < len(part.terms) else part.terms[0].zeroed() for part in parts]
            scales = tuple(dict.fromkeys(scale for term in column for scale in term.scales))
            which = [term.integers([scales.index(scale) for scale in term.scales]) for term in column]
            terms.append(Term(torch.cat([term.values for term in column], axis), torch.cat(which, axis), scales))
        return ExactValue(tuple(terms), parts[0].clamps)

    def clamp(self, low: Fraction | None = None, high: Fraction | None = None) -> ExactValue:
        """Return the value limited to [low, high], low first; relu is the limit low = 0."""
        return ExactValue(self.terms, (*self.clamps, (low, high)))

    def scaled(self, factor: Fraction) -> ExactValue:
        """Return the value times a number."""
        sign, size = (factor > 0) - (factor < 0), abs(factor) or Fraction(1)
        terms = self._settled("mul").terms
        return ExactValue(tuple(Term(t.values * sign, t.which, tuple(s * size for s in t.scales)) for t in terms))

    def add(self, other: ExactValue) -> ExactValue:
        """Return the sum, broadcast."""
        shape = (self.terms[0].values + other.terms[0].values).shape
        terms = self._settled("add").terms + other._settled("add").terms
        return ExactValue(tuple(term.move(lambda tensor: tensor.expand(shape)) for term in terms))

    def mul(self, other: ExactValue) -> ExactValue:
        """Return the product, broadcast.

        Raises:
            UnsupportedError: A product of integers does not fit int64.
        """
        terms = []
        for a in self._settled("mul").terms:
            for b in other._settled("mul").terms:
                _check_exact(_peak(a.values) * _peak(b.values), 2**62)
                which = a.which * len(b.scales) + b.which
                terms.append(Term(a.values * b.values, which, tuple(s * t for s in a.scales for t in b.scales)))
        return ExactValue(tuple(terms))

    def sum(self, axes: Sequence[int], keepdim: bool = False) -> ExactValue:
        """Return the sum over axes; a scale that varies along them splits its term.

        Raises:
            UnsupportedError: A sum of integers does not fit int64.
        """
        rank = len(self.shape)
        reduced = tuple(sorted(axis % rank for axis in axes))
        terms = []
        for term in self._settled("sum").terms:
            _check_exact(_peak(term.values) * term.values.numel(), 2**62)
            for piece, index in term.split([axis for axis in range(rank) if axis not in reduced]):
                total = Term(piece.values.sum(reduced, keepdim=True), index, piece.scales)
                terms.append(total if keepdim else total.move(lambda tensor: tensor.squeeze(reduced)))
        return ExactValue(tuple(terms))

    def mean(self, axes: Sequence[int], keepdim: bool = False) -> ExactValue:
        """Return the mean over axes."""
        return self.sum(axes, keepdim).scaled(Fraction(1, math.prod(self.shape[axis] for axis in axes)))

    def max_pool(self, kernel: Callable[[Tensor], Tensor], spatial: int = 2) -> ExactValue:
        """Return the maximum over windows of the last `spatial` axes, as `kernel` takes it of a float64 tensor.

        Raises:
            UnsupportedError: The value is a sum of several terms, or its scale varies within a window.
        """
        pieces = self.terms[0].split(range(len(self.shape) - spatial))
        if len(self.terms) > 1 or len(pieces) > 1:
            raise UnsupportedError("a maximum over values of several scales; expected one scale within a window")
        _check_exact(_peak(self.terms[0].values), 2**53)
        values = kernel(self.terms[0].values.double()).to(torch.int64)
        return ExactValue((Term(values, pieces[0][1].expand(values.shape), self.terms[0].scales),), self.clamps)

    def contract(
        self,
        weight: ExactValue,
        kernel: Callable[[Tensor, Tensor], Tensor],
        *,
        keep: int | None = None,
        lanes: int = -1,
        repeat: int = 1,
    ) -> ExactValue:
        """Return a sum of products of activation and weight, such as a convolution, a linear or a matrix product.

        A scale that varies along other axes than `keep` splits its term.

        Args:
            weight: The right operand.
            kernel: The op on two float64 tensors.
            keep: The weight's axis along which every output channel may have its own scale; None for none.
            lanes: The output's axis, counted from the end, on which that weight axis lands.
            repeat: How many times over it lands there: the groups of a transposed convolution.

        Raises:
            UnsupportedError: A partial sum might reach 2^53, beyond which float64 does not hold every integer.
        """
        terms = []
        left = [piece for term in self._settled("contract").terms for piece in term.uniform()]
        kept = () if keep is None else (keep,)
        right = [piece for term in weight._settled("contract").terms for piece in term.split(kept)]
        for x, scale in left:
            for w, index in right:
                _check_exact(_peak(x) * int(w.values.abs().sum()), 2**53)
                values = kernel(x.double(), w.values.double()).to(torch.int64)
                shape = [1] * values.dim()
                shape[lanes] = -1 if index.numel() > 1 else 1
                which = index.flatten().repeat(repeat if index.numel() > 1 else 1).reshape(shape).expand(values.shape)
                terms.append(Term(values, which, tuple(scale * s for s in w.scales)))
        return ExactValue(tuple(terms))

    def requantize(self, scale: float | Fraction, zero_point: int, quant_min: int, quant_max: int) -> Requantized:
        """Return the codes of this value, exactly: see `round_exactly`.

        Raises:
            InvalidSpecError: The scale is not positive and finite.
        """
        if not 0 < scale < math.inf:
            raise InvalidSpecError(f"scale {scale}; expected a positive finite one")
        return round_exactly(self, Fraction(scale), zero_point=zero_point, quant_min=quant_min, quant_max=quant_max)

    def _settled(self, op: str) -> ExactValue:
        """Return the value without pending clamps: possible where they fall on whole steps of a single term's scale."""
        values = self.terms[0].values
        for low, high in self.clamps:
            for bound, limit in ((low, torch.maximum), (high, torch.minimum)):
                if bound is not None:
                    steps = [bound / scale for scale in self.terms[0].scales]
                    if len(self.terms) > 1 or any(step.denominator > 1 for step in steps):
                        raise UnsupportedError(f"{op} of a value clamped at {bound}; expected a quantize before it")
                    values = limit(values, self.terms[0].integers([int(step) for step in steps]))
        return ExactValue((Term(values, self.terms[0].which, self.terms[0].scales), *self.terms[1:]))


def _peak(values: Tensor) -> int:
    """Return the largest magnitude."""
    return int(values.abs().max()) if values.numel() else 0


def _check_exact(bound: int, limit: int) -> None:
    """Refuse integers that might reach a limit.

    Raises:
        UnsupportedError: They might.
    """
    if bound >= limit:
        raise UnsupportedError(f"integers up to {bound} in one tensor; exact arithmetic holds below {limit}")
