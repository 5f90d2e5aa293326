"""What a kernel of a given profile must give, bit for bit: float32 and integer arithmetic in the kernel's own order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import torch
from torch import Tensor

from quantizer_sdk.conformance.bounds import Traced
from quantizer_sdk.conformance.exact import Term
from quantizer_sdk.conformance.oracle import Site
from quantizer_sdk.conformance.roundoff import UNIT
from quantizer_sdk.profile import Arithmetic, BiasForm, Family, Multiplier, Profile, Rounding, ZeroPointOrder

__all__ = ["emulate", "fma", "rounded"]

_EVALUATED = frozenset({Multiplier.DIVIDED, Multiplier.RECIPROCAL})
_BEYOND = 2.0**40


def emulate(site: Site, profile: Profile, found: Tensor | None = None) -> Tensor | None:
    """Return the int64 codes that a kernel of this profile gives at a quantize.

    Args:
        site: The quantize, as the oracle saw it on the kernel's own inputs.
        profile: The kernels' arithmetic.
        found: The codes that a kernel gave: they are returned where they are one of two that the profile leaves open,
            which it does next to the ties of a function that the kernel approximates.

    Returns:
        The codes; None where the profile does not say how this family of kernels rounds, or several ops lie before
        the quantize.
    """
    value, target = site.value, site.requantized
    family = value.family
    if family is Family.MOVE and value.exact.clamps:
        family = Family.CLAMP
    arithmetic = profile.arithmetic.get(family)
    if family is Family.MOVE and _unchanged(site):
        return target.expected
    if arithmetic is None:
        return None
    scale = _float32(target.scale)
    if family is Family.ADD:
        real = _added(value, scale, target.zero_point, arithmetic)
    elif family is Family.DOT:
        real = _dotted(value, scale, profile.bias, arithmetic.multiplier)
    elif family is Family.DOT_ADD:
        real = _dotted_and_added(value, scale, arithmetic.multiplier)
    elif family is Family.DOT_TABLE and value.op is not None:
        number = _dotted(value.operands[0], None, BiasForm.FLOAT32, arithmetic.multiplier)
        real = None if number is None or value.exact.clamps else value.op(number) * (1 / scale)
    elif family in {Family.MUL, Family.SQUARE}:
        real = _multiplied(value, scale, target.zero_point, arithmetic)
    elif family is Family.MEAN:
        real = _averaged(value, scale, target.zero_point, arithmetic)
    elif family in {Family.CLAMP, Family.MOVE}:
        real = _clamped(value, scale)
    elif family is Family.TABLE and value.op is not None and value.op.target in profile.tables:
        return _tabled(site, profile)
    elif family in {Family.POOL, Family.TABLE} and arithmetic.multiplier in _EVALUATED:
        real = _evaluated(value, scale, arithmetic.multiplier)
    else:
        return None
    if real is None:
        return None
    codes = _codes(site, family, arithmetic, real)
    slack = 0 if value.op is None else profile.approximations.get(value.op.target, 0)  # type: ignore[call-overload]
    if not slack or found is None:
        return codes
    ends = [_codes(site, family, arithmetic, real * (1 + sign * slack * UNIT)) for sign in (-1, 1)]
    return torch.minimum(torch.maximum(found.to(torch.int64), torch.minimum(*ends)), torch.maximum(*ends))


def _codes(site: Site, family: Family, arithmetic: Arithmetic, real: Tensor) -> Tensor:
    """Round a value in units of the output's scale."""
    target = site.requantized
    if arithmetic.zero_point is ZeroPointOrder.AFTER:
        codes = rounded(real, arithmetic.rounding) + target.zero_point
    elif arithmetic.multiplier in {Multiplier.FUSED, Multiplier.FOLDED} and family is not Family.DOT_ADD:
        codes = rounded(real, arithmetic.rounding)  # its constant holds the zero point
    else:
        codes = rounded(real + float(target.zero_point), arithmetic.rounding)
    low, high = _ends(site, family, arithmetic)
    return codes.to(torch.int64).clamp(low, high)


def _unchanged(site: Site) -> bool:
    """Whether codes pass through: the quantize has the qparams of the dequantize before it."""
    term = site.value.exact.terms[0]
    return not site.value.exact.clamps and set(term.scales) == {site.requantized.scale}


def _dotted_and_added(value: Traced, scale: Tensor, multiplier: Multiplier) -> Tensor | None:
    """What RECIPROCAL makes of the gemm's accumulator before the output's scale, plus the dequantized other operand.

    FUSED multiplies that operand by its scale and adds it in one rounding.
    """
    gemm, other = sorted(value.operands, key=lambda operand: operand.family is not Family.DOT)
    real, addend = _dotted(gemm, None, BiasForm.FLOAT32, Multiplier.RECIPROCAL), _dequantized(other)
    (term, *more), lead = other.exact.terms, _single(other)
    if real is None or addend is None or multiplier not in {Multiplier.RECIPROCAL, Multiplier.FUSED}:
        return None
    if multiplier is Multiplier.FUSED:
        if lead is None or more:
            return None
        return fma(term.values.float(), _float32(lead), real) * (1 / scale)
    return (real + addend) * (1 / scale)


def _dotted(value: Traced, scale: Tensor | None, bias_form: BiasForm, multiplier: Multiplier) -> Tensor | None:
    """float32(int32 accumulator) · (sx · sw / sy), the bias among the products; or dequantized scale by scale.

    With RECIPROCAL the output's scale may be None, for the number itself.
    """
    accumulator, *bias = value.exact.terms
    lead = _single(value.operands[0])
    if lead is None or len(bias) > 1:
        return None
    weights = [float(_float32(s / lead)) for s in accumulator.scales]
    products = _float32(lead) * torch.tensor(weights, dtype=torch.float32)
    total = accumulator.values
    if multiplier is Multiplier.RECIPROCAL:
        real = total.float() * _float32(lead) * torch.tensor(weights, dtype=torch.float32)[accumulator.which]
        for term in bias:
            real = real + (term.values.double() * term.floats(term.scales)).float()
        return real if scale is None else real * (1 / scale)
    if scale is None:
        return None
    if bias:
        number = (bias[0].values.double() * bias[0].floats(bias[0].scales)).float()
        if bias_form is BiasForm.FLOAT32:
            return (total.float() * products[accumulator.which] + number) / scale
        # A compiler that is given a float bias quantizes it as any tensor: by the float32 reciprocal of its scale.
        total = total + rounded(number * (1 / products)[accumulator.which], Rounding.HALF_EVEN).long()
    return total.float() * (products / scale)[accumulator.which]


def _multiplied(value: Traced, scale: Tensor, zero_point: int, arithmetic: Arithmetic) -> Tensor | None:
    """(qa - za)·(qb - zb) · (sa·sb/sy)."""
    lead = _single(value.operands[0])
    (term, *more) = value.exact.terms
    if lead is None or more or len(term.scales) != 1:
        return None
    if arithmetic.multiplier is Multiplier.RECIPROCAL:
        factors = [_dequantized(value.operands[0]), _dequantized(value.operands[1])]
        if factors[0] is None or factors[1] is None:
            return None
        return factors[0] * factors[1] * (1 / scale)
    both = _float32(lead) * _float32(term.scales[0] / lead)
    if arithmetic.multiplier is Multiplier.PREMULTIPLIED:
        return term.values.float() * (both * (1 / scale))
    ratio = both / scale
    if arithmetic.multiplier is Multiplier.FUSED:
        return fma(term.values.float(), ratio, torch.tensor(float(zero_point)))
    return term.values.float() * ratio


def _averaged(value: Traced, scale: Tensor, zero_point: int, arithmetic: Arithmetic) -> Tensor | None:
    """Sum over the window, scaled by sx/sy/N."""
    (term, *more) = value.exact.terms
    source = value.operands[0]
    lead = _single(source)
    if lead is None or more or len(term.scales) != 1:
        return None
    count = lead / term.scales[0]
    if arithmetic.multiplier is not Multiplier.FOLDED:
        return term.values.float() * (_float32(lead) / (scale * _float32(count)))
    ratio = _float32(lead) / scale * (1 / _float32(count))
    offset = (source.zero_point or 0) * int(count)
    constant = torch.tensor(float(zero_point)) - torch.tensor(float(offset)) * ratio
    return (term.values + offset).float() * ratio + constant


def _added(value: Traced, scale: Tensor, zero_point: int, arithmetic: Arithmetic) -> Tensor | None:
    """Each operand times its ratio to the output's scale; a subtraction's second term is negative already."""
    terms = value.exact.terms
    if len(terms) != 2 or any(len(term.scales) != 1 for term in terms):
        return None
    if arithmetic.multiplier is Multiplier.RECIPROCAL:
        a, b = (term.values.float() * _float32(term.scales[0]) for term in terms)
        return (a + b) * (1 / scale)
    if arithmetic.multiplier is Multiplier.PREMULTIPLIED:
        return _premultiplied(value, scale)
    ratios = [_float32(term.scales[0]) / scale for term in terms]
    if arithmetic.multiplier is Multiplier.FIXED_POINT:
        return _fixed_point(terms, ratios)
    if arithmetic.multiplier is Multiplier.FUSED:
        zeros = [operand.zero_point for operand in value.operands]
        if None in zeros:
            return None
        a, b = (_raw(term, zero or 0) for term, zero in zip(terms, zeros, strict=True))
        offsets = fma(torch.tensor(float(zeros[0] or 0)), ratios[0], ratios[1] * float(zeros[1] or 0))
        constant = torch.tensor(float(zero_point)) - offsets
        return fma(a, ratios[0], fma(b, ratios[1], constant))
    return terms[0].values.float() * ratios[0] + terms[1].values.float() * ratios[1]


def _premultiplied(value: Traced, scale: Tensor) -> Tensor | None:
    """fma(q, s, -(s·z)) of each operand, their sum times the reciprocal."""
    parts = []
    for term, operand in zip(value.exact.terms, value.operands, strict=True):
        if operand.zero_point is None:
            return None
        own, zero_point = _float32(term.scales[0]), operand.zero_point
        parts.append(fma(_raw(term, zero_point), own, -(own * float(zero_point))))
    return (parts[0] + parts[1]) * (1 / scale)


def _dequantized(operand: Traced) -> Tensor | None:
    """Return the float32 numbers that one operand's codes stand for."""
    lead = _single(operand)
    return None if lead is None else operand.exact.terms[0].values.float() * _float32(lead)


def _raw(term: Term, zero_point: int) -> Tensor:
    return (term.values + zero_point).float()


def _fixed_point(terms: Sequence[Term], ratios: Sequence[Tensor]) -> Tensor:
    """Multipliers of 21 bits, the larger of the two normalised, and one shift at the end: exact in float64."""
    exponent = math.frexp(max(float(ratio) for ratio in ratios))[1] - 1
    shift = 20 - exponent
    total = torch.zeros(terms[0].values.shape, dtype=torch.int64)
    for term, ratio in zip(terms, ratios, strict=True):
        total = total + term.values * round(math.ldexp(float(ratio), shift))
    return total.double() * 2.0**-shift


def _clamped(value: Traced, scale: Tensor) -> Tensor | None:
    """Dequantize, clamp, and divide by the output's scale by way of its reciprocal."""
    (term, *more) = value.exact.terms
    if more or len(term.scales) != 1:
        return None
    real = term.values.float() * _float32(term.scales[0])
    for low, high in value.exact.clamps:
        real = real if low is None else real.clamp(min=float(_float32(low)))
        real = real if high is None else real.clamp(max=float(_float32(high)))
    return real * (1 / scale)


def _tabled(site: Site, profile: Profile) -> Tensor | None:
    """The profile's own function of codes."""
    value, target = site.value, site.requantized
    source = value.operands[0]
    lead = _single(source)
    if lead is None or source.zero_point is None or value.op is None:
        return None
    codes = source.exact.terms[0].values + source.zero_point
    function = profile.tables[value.op.target]  # type: ignore[index]
    found = function(codes, float(lead), source.zero_point, float(target.scale), target.zero_point, **value.op.options)
    return found.to(torch.int64).clamp(target.quant_min, target.quant_max)


def _evaluated(value: Traced, scale: Tensor, multiplier: Multiplier) -> Tensor | None:
    """The op on dequantized numbers in float32, divided by the output's scale or times its reciprocal."""
    lead = _single(value.operands[0])
    if lead is None or value.op is None or value.exact.clamps:
        return None
    real = value.op(value.operands[0].exact.terms[0].values.float() * _float32(lead))
    real = real / scale if multiplier is Multiplier.DIVIDED else real * (1 / scale)
    return real.clamp(-_BEYOND, _BEYOND)  # infinities, too, have a code at an end of the range


def _ends(site: Site, family: Family, arithmetic: Arithmetic) -> tuple[int, int]:
    """Return the range of codes, which fused clamps narrow: a kernel clamps to the code of each bound."""
    target = site.requantized
    low, high = target.quant_min, target.quant_max
    if family is Family.CLAMP:
        return low, high
    for bounds in site.value.exact.clamps:
        for place, bound in enumerate(bounds):
            if bound is None:
                continue
            code = _end(bound, _float32(target.scale), target.zero_point, arithmetic)
            low, high = (max(low, code), high) if place == 0 else (low, min(high, code))
    return min(low, high), high


def _end(bound: Fraction, scale: Tensor, zero_point: int, arithmetic: Arithmetic) -> int:
    """Return the code of a bound; RECIPROCAL clamps numbers, which are then rounded as all results are."""
    if arithmetic.multiplier not in {Multiplier.RECIPROCAL, Multiplier.PREMULTIPLIED}:
        return round(float(_float32(bound) / scale)) + zero_point
    real = _float32(bound) * (1 / scale)
    if arithmetic.zero_point is ZeroPointOrder.BEFORE:
        return int(rounded(real + float(zero_point), arithmetic.rounding))
    return int(rounded(real, arithmetic.rounding)) + zero_point


def rounded(real: Tensor, rounding: Rounding) -> Tensor:
    """Return whole numbers, halves where a rounding has them go."""
    if rounding is Rounding.HALF_EVEN:
        return torch.round(real)
    if rounding is Rounding.HALF_UP:
        return torch.floor(real.double() + 0.5)
    if rounding is Rounding.TRUNCATE:
        return torch.trunc(real)
    return torch.sign(real) * torch.floor(real.double().abs() + 0.5)


def fma(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Return a·b + c in one rounding: float64 holds the product, and its rounding of the sum is 2^29 times finer."""
    return (a.double() * b.double() + c.double()).float()


def _single(value: Traced) -> Fraction | None:
    """Return the one scale of an operand."""
    terms = value.exact.terms
    return terms[0].scales[0] if len(terms) == 1 and len(terms[0].scales) == 1 else None


def _float32(number: Fraction) -> Tensor:
    return torch.tensor(float(number), dtype=torch.float32)
