"""Which codes are right: the exact rounding of a value to codes, and the judgement of a kernel's codes against it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from quantizer_sdk.errors import InvalidSpecError

if TYPE_CHECKING:
    from quantizer_sdk.conformance.exact import ExactValue

__all__ = ["Element", "Requantized", "Verdict", "judge", "round_exactly"]

_HALF = Fraction(1, 2)
_FLOAT64_UNIT = 2.0**-53
_INT64_SAFE = 2**61

_Ratios = list[tuple[Fraction, ...]]
_Clamps = list[tuple[Fraction | None, ...]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Requantized:
    """What an exact value becomes after quantize, and how near to a tie it lay; all tensors have the value's shape.

    Attributes:
        expected: int64 codes, clip(round_half_even(r) + zero_point, quant_min, quant_max).
        r: float64 approximation of value / scale.
        half_distance: float64 distance of the exact r from the nearest half-integer; 0.0 at true ties and only there.
        scale: The output's exact scale.
        zero_point: The output's zero point.
        quant_min: The smallest code.
        quant_max: The largest code.
    """

    expected: Tensor
    r: Tensor
    half_distance: Tensor
    scale: Fraction
    zero_point: int
    quant_min: int
    quant_max: int


def round_exactly(
    value: ExactValue,
    scale: Fraction,
    *,
    zero_point: int,
    quant_min: int,
    quant_max: int,
) -> Requantized:
    """Quantize an exact value: clip(round_half_even(value / scale) + zero_point), decided in exact arithmetic.

    In int64 throughout where every ratio and sum fits, as with dyadic scales, on which true ties are frequent.
    Otherwise in float64, and in rationals where float64 cannot: with w = 2^-53, rounding the integer, the ratio and
    their product costs each term 3w of its magnitude, and summing n terms n - 1 more, so that r is off by at most
    (n + 4)·w·(Σ|term| + Σ|clamp|), second-order terms and the rounding of the clamps included. Taking r's floor off,
    which leaves the half-distance, costs w. Elements whose half-distance is not above that are decided in rationals.
    """
    ratios = [tuple(s / scale for s in term.scales) for term in value.terms]
    clamps = [tuple(None if bound is None else bound / scale for bound in pair) for pair in value.clamps]
    ends = [bound for pair in clamps for bound in pair if bound is not None]
    whole = math.lcm(*(x.denominator for x in ends), *(x.denominator for table in ratios for x in table))
    reach = sum(_peak(term.values) * max(table) for term, table in zip(value.terms, ratios, strict=True))
    fits = max(whole, reach * whole, *(abs(x) * whole for x in ends)) < _INT64_SAFE
    rounded, r, half_distance = _in_int64(value, ratios, clamps, whole) if fits else _in_float64(value, ratios, clamps)
    limited = rounded.clamp(quant_min - zero_point, quant_max - zero_point)
    return Requantized(
        expected=limited.to(torch.int64) + zero_point,
        r=r,
        half_distance=half_distance,
        scale=scale,
        zero_point=zero_point,
        quant_min=quant_min,
        quant_max=quant_max,
    )


def _in_int64(value: ExactValue, ratios: _Ratios, clamps: _Clamps, whole: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the rounded value, r and the half-distance by way of numerators over the common denominator `whole`."""
    total = torch.zeros(value.shape, dtype=torch.int64)
    for term, table in zip(value.terms, ratios, strict=True):
        total = total + term.values * term.integers([int(x * whole) for x in table])
    for low, high in clamps:
        total = total if low is None else total.clamp(min=int(low * whole))
        total = total if high is None else total.clamp(max=int(high * whole))
    floor = total.div(whole, rounding_mode="floor")
    rest = total - floor * whole
    odd = floor.remainder(2) == 1
    rounded = floor + ((2 * rest > whole) | ((2 * rest == whole) & odd))
    return rounded, floor + rest.double() / whole, (2 * rest - whole).abs().double() / (2 * whole)


def _in_float64(value: ExactValue, ratios: _Ratios, clamps: _Clamps) -> tuple[Tensor, Tensor, Tensor]:
    """Return the rounded value, r and the half-distance in float64, corrected where the error bound asks for it."""
    total = torch.zeros(value.shape, dtype=torch.float64)
    spread = torch.zeros(value.shape, dtype=torch.float64)
    for term, table in zip(value.terms, ratios, strict=True):
        part = term.values * term.floats(table)
        total, spread = total + part, spread + part.abs()
    for low, high in clamps:
        total = total.clamp(-math.inf if low is None else float(low), math.inf if high is None else float(high))
        spread = spread + float(abs(low or 0)) + float(abs(high or 0))
    half_distance = (total - total.floor() - 0.5).abs()
    rounded = total.round()
    undecided = half_distance <= _FLOAT64_UNIT * (1 + (len(ratios) + 4) * spread)
    gathered = [(t.values[undecided].tolist(), t.which[undecided].tolist()) for t in value.terms]
    for place, element in enumerate(undecided.nonzero().tolist()):
        r = sum((v[place] * table[w[place]] for (v, w), table in zip(gathered, ratios, strict=True)), Fraction(0))
        for low, high in clamps:
            r = r if low is None else max(r, low)
            r = r if high is None else min(r, high)
        at = tuple(element)
        total[at], rounded[at], half_distance[at] = float(r), float(round(r)), float(abs(r - math.floor(r) - _HALF))
    return rounded, total, half_distance


def _peak(values: Tensor) -> int:
    """Return the largest magnitude."""
    return int(values.abs().max()) if values.numel() else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Element:
    """One element of a judged tensor.

    Attributes:
        index: Where it stands.
        actual: The kernel's code.
        expected: The exact code.
        r: value / scale before rounding.
        half_distance: Distance of r from the nearest half-integer.
        delta: The allowance there.
    """

    index: tuple[int, ...]
    actual: int
    expected: int
    r: float
    half_distance: float
    delta: float

    def __str__(self) -> str:
        return (
            f"at {self.index}: actual {self.actual}, expected {self.expected}, r = {self.r:.9g}, "
            f"half-distance {self.half_distance:.3g}, δ = {self.delta:.3g}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """How a tensor of codes compares with the exact one.

    Attributes:
        elements: Number of codes.
        mismatches: How many differ from the exact code.
        outside: How many of these no arithmetic within δ can explain.
        near_tie: How many elements lie within δ of a tie between two codes: the most mismatches that δ < 1/2 allows.
        max_lsb: The largest difference.
        mean_error: The mean signed difference, actual minus expected.
        distinct_codes: How many different codes the kernel gave.
        constant: Whether it gave at most one, which proves nothing.
        saturated: The fraction of its codes at either end of the range.
        worst: The element that is furthest outside, else the largest mismatch; None without mismatches.
    """

    elements: int
    mismatches: int
    outside: int
    near_tie: int
    max_lsb: int
    mean_error: float
    distinct_codes: int
    constant: bool
    saturated: float
    worst: Element | None

    @property
    def conforms(self) -> bool:
        """Whether every mismatch lies across a tie within δ."""
        return self.outside == 0

    def __str__(self) -> str:
        text = (
            f"{'conforms' if self.conforms else 'DOES NOT CONFORM'}: "
            f"{self.mismatches} of {self.elements} codes differ, "
            f"{self.outside} beyond δ; {self.near_tie} lie within δ of a tie; at most {self.max_lsb} LSB, "
            f"mean {self.mean_error:+.2e} LSB; {self.distinct_codes} distinct codes, {self.saturated:.1%} saturated"
        )
        return text if self.worst is None else f"{text}; worst {self.worst}"


def judge(actual: Tensor, requantized: Requantized, delta: Tensor | float) -> Verdict:
    """Judge a kernel's codes against the exact ones.

    A code conforms if it is the exact one, or if some number within δ of the exact r rounds to it, ties going either
    way: for δ < 1/2 it is then the neighbour across a tie not further than δ from r. Where δ = 0 the kernel's
    arithmetic is exact, which leaves it only the exact code: ties go to the even number.

    Args:
        actual: Integer tensor of the value's shape.
        requantized: What the codes must be.
        delta: How far the kernel's r may be from the exact one: one number, or a float64 tensor of the same shape.

    Raises:
        InvalidSpecError: The codes are no integers, or shapes differ.
    """
    delta = torch.as_tensor(delta, dtype=torch.float64)
    expected = requantized.expected
    if actual.is_floating_point() or actual.shape != expected.shape or delta.shape not in {expected.shape, ()}:
        found = f"{actual.dtype} codes of shape {tuple(actual.shape)}, δ of shape {tuple(delta.shape)}"
        raise InvalidSpecError(f"{found}; expected integers and δ of shape {tuple(expected.shape)}")
    actual, delta = actual.to(torch.int64), delta.expand(expected.shape)
    low, high = requantized.quant_min, requantized.quant_max
    error = actual - expected

    # Distance of r from the interval that rounds to the actual code. The end codes' intervals reach further, but there
    # the expected code is the same.
    distance = ((requantized.r - (actual - requantized.zero_point)).abs() - 0.5).clamp(min=0.0)
    distance = torch.where(distance < float(_HALF), requantized.half_distance, distance)  # the same, but exact
    within = (delta > 0) & (distance <= delta) & (actual >= low) & (actual <= high)
    outside = (error != 0) & ~within

    floor = requantized.r.floor()
    split = [(floor + step).clamp(low - requantized.zero_point, high - requantized.zero_point) for step in (0, 1)]
    near = (delta > 0) & (requantized.half_distance <= delta) & (split[0] != split[1])
    codes = len(torch.unique(actual))
    return Verdict(
        elements=actual.numel(),
        mismatches=int((error != 0).sum()),
        outside=int(outside.sum()),
        near_tie=int(near.sum()),
        max_lsb=_peak(error),
        mean_error=float(error.double().mean()) if error.numel() else 0.0,
        distinct_codes=codes,
        constant=codes <= 1,
        saturated=float(((actual == low) | (actual == high)).double().mean()) if actual.numel() else 0.0,
        worst=_worst(actual, requantized, delta, outside),
    )


def _worst(actual: Tensor, requantized: Requantized, delta: Tensor, outside: Tensor) -> Element | None:
    """Return the largest mismatch, among those outside if there are any."""
    size = (actual - requantized.expected).abs() * (outside if outside.any() else 1)
    if not size.any():
        return None
    index = tuple(int(i) for i in torch.unravel_index(size.argmax(), size.shape))
    return Element(
        index=index,
        actual=int(actual[index]),
        expected=int(requantized.expected[index]),
        r=float(requantized.r[index]),
        half_distance=float(requantized.half_distance[index]),
        delta=float(delta[index]),
    )
