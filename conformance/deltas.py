"""How far integer kernels, and the eager graph's own quantize, may stray from the exact code: δ, in units of r."""

from __future__ import annotations

import math
from fractions import Fraction

import torch
from torch import Tensor

from quantizer_sdk.conformance.bounds import Traced
from quantizer_sdk.conformance.roundoff import gamma, is_float32, is_power, nearest_float32
from quantizer_sdk.conformance.verdict import Requantized
from quantizer_sdk.profile import Arithmetic, Family, Multiplier

__all__ = ["graph_delta", "kernel_delta"]

_MULTIPLIER_BITS = 20


def graph_delta(value: Traced, requantized: Requantized) -> Tensor:
    """Return the δ of the eager float32 graph, in units of r.

    Quantize multiplies by the reciprocal of the scale: one rounding for the reciprocal and one for the product,
    none if the scale is a power of two. Scaling carries the error of what is quantized into r.
    """
    rounding = gamma(0 if is_power(requantized.scale) else 2)
    return value.error / float(requantized.scale) * (1 + rounding) + rounding * requantized.r.abs()


def kernel_delta(value: Traced, requantized: Requantized, arithmetic: Arithmetic | None = None) -> Tensor:
    """Return the δ of a runtime's integer kernel, in units of r; that of the graph where no kernel is known.

    Every kernel named here was measured on constructed ties.

    Args:
        value: The exact value before quantize.
        requantized: The exact codes.
        arithmetic: How kernels of this family round; None takes XNNPACK's.
    """
    terms = len(value.exact.terms)
    multiplier = Multiplier.FIXED_POINT if arithmetic is None else arithmetic.multiplier
    if value.family is Family.ADD and terms == 2:
        if multiplier is Multiplier.FIXED_POINT:
            return _fixed_point(value, requantized)
        return _fused(value, requantized, sum(scale for term in value.exact.terms for scale in term.scales))
    if multiplier is Multiplier.FUSED and terms == 1 and value.family in {Family.MUL, Family.SQUARE}:
        return _fused(value, requantized, 0)
    one_kernel = value.family is Family.DOT_ADD and multiplier is Multiplier.FUSED
    if one_kernel or (multiplier is Multiplier.RECIPROCAL and value.family in {Family.DOT, Family.DOT_ADD}):
        return _dequantized(value, requantized)
    if multiplier is Multiplier.RECIPROCAL and value.family is Family.DOT_TABLE:
        size = requantized.r.abs() + abs(requantized.zero_point)
        return graph_delta(value, requantized) + gamma(2) * size  # the zero point is added before rounding
    if multiplier is Multiplier.PREMULTIPLIED and value.family in {Family.ADD, Family.MUL, Family.SQUARE}:
        # Of a sum, s·z is rounded, and each operand by as much as its code is beside its zero point.
        scales = sum(float(s / requantized.scale) for term in value.exact.terms for s in term.scales)
        size = requantized.r.abs() + (2 * 255 * scales if value.family is Family.ADD else 0)
        return graph_delta(value, requantized) + gamma(6) * size
    if multiplier is Multiplier.RECIPROCAL and value.family in {Family.ADD, Family.MUL, Family.SQUARE}:
        return graph_delta(value, requantized)  # the graph's own arithmetic
    if value.family is Family.POOL:  # the zero point may be added before rounding
        size = requantized.r.abs() + abs(requantized.zero_point)
        return graph_delta(value, requantized) + gamma(2) * size
    single = terms == 1 and value.family in {Family.MOVE, Family.MUL, Family.SQUARE, Family.MEAN}
    if single or (terms <= 2 and value.family is Family.DOT):
        return _float_requantized(value, requantized)
    return graph_delta(value, requantized)


def _float_requantized(value: Traced, requantized: Requantized) -> Tensor:
    """Return the δ of an int32 accumulator times a float32 scale, rounded half to even.

    Four roundings: two to make the scale sx·sw / sy, the accumulator's conversion and the product; another three
    if the runtime first rounds scales that are no float32 numbers. A float bias becomes whole steps of sx·sw,
    which moves it by its distance from the nearest step, at most ½·sx·sw / sy; three roundings on the way there
    may make it the other neighbour of a near-tie, which twice their size covers. XNNPACK's convolution, linear
    and multiply are of this kind and exact on dyadic scales. Its average pool, and its clamp between different
    quantizations, add the zero point before they round: one more rounding, and ties follow the parity of the
    zero point, so that their δ is never 0 at a tie.
    """
    accumulator, *bias = value.exact.terms
    scale = float(requantized.scale)
    step = accumulator.floats([s / requantized.scale for s in accumulator.scales])
    r = accumulator.values * step
    moved = torch.zeros_like(r)
    ends = [end for clamp in value.exact.clamps for end in clamp if end is not None]
    exact = all(is_power(s) for s in (requantized.scale, *accumulator.scales)) and all(map(is_float32, ends))
    for term in bias:
        steps = term.values * term.floats(term.scales) / scale / step
        moved = (steps - steps.round()).abs() + (0 if exact else 2 * gamma(3) * steps.abs())
        r = r + steps * step
        exact = exact and bool((steps.abs() < 2**23).all())
    exact = exact and bool((accumulator.values.abs() < 2**23).all())
    size = r.abs() + moved * step
    strays = 3 if value.stray or not is_float32(requantized.scale) else 0
    delta = moved * step + gamma(0 if exact else 4 + strays) * size
    delta = _clamped(value, requantized, r, delta, 0 if exact else 2)
    if value.family in {Family.MEAN, Family.SQUARE} or (value.family is Family.MOVE and value.exact.clamps):
        delta = delta + gamma(1) * (torch.maximum(size, requantized.r.abs()) + abs(requantized.zero_point))
    return delta


def _dequantized(value: Traced, requantized: Requantized) -> Tensor:
    """Return the δ of (((f(acc)·sx)·sw + bias + b·sb)·(1/sy)) + z in float32, rounded half to even.

    The accumulator's conversion, two products, two sums and two roundings for the reciprocal make seven, three more
    where scales are no float32 numbers; then the zero point is added: ties follow its parity.
    """
    size = torch.zeros(value.exact.shape, dtype=torch.float64)
    for term in value.exact.terms:
        size = size + (term.values * term.floats([s / requantized.scale for s in term.scales])).abs()
    strays = 3 if value.stray or not is_float32(requantized.scale) else 0
    ends = [abs(float(end / requantized.scale)) for clamp in value.exact.clamps for end in clamp if end is not None]
    largest = size.clamp(min=max(ends, default=0.0))
    return gamma(7 + strays) * largest + gamma(2) * (requantized.r.abs() + abs(requantized.zero_point))


def _fixed_point(value: Traced, requantized: Requantized) -> Tensor:
    """Return the δ of XNNPACK's add and subtract, which round half up.

    Each operand's ratio to the output scale becomes an integer over 2^shift, of which the larger has 21 bits:
    half a unit off each, or (|qa - za| + |qb - zb|)·2^-(shift + 1), besides the one rounding of the ratio, three
    if scales are no float32 numbers. As ties go up, δ is never 0 at a tie.
    """
    tables = [[s / requantized.scale for s in term.scales] for term in value.exact.terms]
    exponent = math.frexp(nearest_float32(max(max(table) for table in tables)))[1] - 1
    unit = 2.0 ** -(_MULTIPLIER_BITS - exponent + 1)
    strays = 2 if value.stray or not is_float32(requantized.scale) else 0
    delta, r = torch.zeros(2, *value.exact.shape, dtype=torch.float64)
    for term, table in zip(value.exact.terms, tables, strict=True):
        delta = delta + term.values.abs() * (unit + gamma(1 + strays) * term.floats(table))
        r = r + term.values * term.floats(table)
    return _clamped(value, requantized, r, delta, 2)


def _fused(value: Traced, requantized: Requantized, scales: Fraction | int) -> Tensor:
    """Return the δ of rint(fma(a, A, fma(b, B, C))) and of rint(fma(ab, S, zp)) in float32.

    Multipliers and C take three roundings, each fma one. Codes are at most 255 in magnitude, so that C is at most
    255·(A + B + 1), and so is what precedes each fma's result. The zero point is inside: ties follow its parity.
    """
    operands = 255 * 2 * float(scales / requantized.scale)
    size = requantized.r.abs() + operands + abs(requantized.zero_point)
    return _clamped(value, requantized, requantized.r, gamma(5 + 2 * value.stray) * size, 2)


def _clamped(value: Traced, requantized: Requantized, r: Tensor, delta: Tensor, operations: int) -> Tensor:
    """Return the δ after fused clamps, which are codes made in so many roundings, given r and δ before them."""
    if not value.exact.clamps:
        return delta
    edge = gamma(operations) * requantized.r.abs()
    return torch.where((r - requantized.r).abs() > delta, edge, torch.maximum(delta, edge))
