"""What a gemm of run-time qparams gives by its profile, bit for bit: float32 arithmetic in the kernel's own order."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import GraphModule

from quantizer_sdk.conformance.dynamic_bounds import own_axes
from quantizer_sdk.conformance.dynamic_gemms import DynamicGemm, range_of
from quantizer_sdk.conformance.dynamic_weights import StoredWeight
from quantizer_sdk.conformance.emulator import fma, rounded
from quantizer_sdk.profile import DynamicArithmetic, RunTimeScale, ScaleOrder, ZeroPointOrder

__all__ = ["Operands", "Predicted", "RowQParams", "choose", "operands_of", "predict", "scaled", "steps_of"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RowQParams:
    """What a kernel chooses for each row, float32: of the activation's shape, with 1 for the axes that share them."""

    scale: Tensor
    inverse: Tensor
    zero_point: Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Operands:
    """What a kernel multiplies.

    Attributes:
        qparams: Those of the activation's rows.
        steps: The activation's codes without their zero points, float64, in its shape.
        weight: The weight.
        bias: The bias, with axes of length 1 behind the channels; None without one.
    """

    qparams: RowQParams
    steps: Tensor
    weight: StoredWeight
    bias: Tensor | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Predicted:
    """The float32 results of a gemm.

    Attributes:
        value: The results.
        known: Where they are predicted: the sum over groups must be the same in any order.
    """

    value: Tensor
    known: Tensor


def predict(model: GraphModule, gemm: DynamicGemm, x: Tensor, arithmetic: DynamicArithmetic) -> Predicted:
    """Return what a kernel of this arithmetic gives for a float32 activation.

    Rows with infinities or NaN among their values have no specified result, and none here that means anything.
    """
    return scaled(gemm, operands_of(model, gemm, x, arithmetic), arithmetic)


def operands_of(model: GraphModule, gemm: DynamicGemm, x: Tensor, arithmetic: DynamicArithmetic) -> Operands:
    """Return what the kernel of a gemm multiplies."""
    qparams = choose(x, own_axes(gemm, x), gemm.code_range, arithmetic)
    return Operands(
        qparams=qparams,
        steps=steps_of(x, qparams, gemm.code_range, arithmetic),
        weight=StoredWeight.of(model, gemm.weight),
        bias=gemm.bias(model),
    )


def choose(x: Tensor, own: tuple[int, ...], codes: tuple[int, int], arithmetic: DynamicArithmetic) -> RowQParams:
    """Return the qparams for each index of the axes `own`."""
    first, last = codes
    low, high = range_of(x, own)
    one = torch.ones_like(low)
    if arithmetic.scale is RunTimeScale.INVERSE:
        inverse = torch.where(
            low == high, one, (last - first) * one / (high - low)
        )  # a number over a tensor rounds twice
        if arithmetic.smallest_scale:
            inverse = inverse.clamp(max=1 / arithmetic.smallest_scale)
        scale = 1 / inverse
    else:
        scale = torch.where(low == high, one, ((high - low) / float(last - first)).clamp(min=arithmetic.smallest_scale))
        inverse = 1 / scale
    least, most = low * inverse, high * inverse
    nearer = (first + least) + (last + most) > 0
    zero_point = torch.where(nearer, first - least, last - most).clamp(first, last)
    return RowQParams(scale=scale, inverse=inverse, zero_point=torch.round(zero_point))


def steps_of(values: Tensor, qparams: RowQParams, codes: tuple[int, int], arithmetic: DynamicArithmetic) -> Tensor:
    """Return the codes without their zero points, float64."""
    real = values * qparams.inverse
    if arithmetic.zero_point is ZeroPointOrder.BEFORE:
        found = rounded(real + qparams.zero_point, arithmetic.rounding)
    else:
        found = rounded(real, arithmetic.rounding) + qparams.zero_point
    return (found.clamp(*codes) - qparams.zero_point).double()


def scaled(gemm: DynamicGemm, operands: Operands, arithmetic: DynamicArithmetic) -> Predicted:
    """Return the results: integer sums, exact in float64, then the scales and the bias in float32."""
    steps, weight, bias = operands.steps, operands.weight, operands.bias
    integers = weight.steps.double()
    sums = [gemm(weight.within(steps, group), integers) for group in range(weight.groups)]
    behind = 0 if gemm.channel_axis == -1 else weight.codes.dim() - 2
    scale = operands.qparams.scale
    known = torch.ones(sums[0].shape, dtype=torch.bool)
    if weight.group is not None:
        terms = [total * weight.scales_of(group, behind).double() for group, total in enumerate(sums)]
        known = _any_order(gemm, operands, terms)
        value = torch.stack(terms).sum(0).float() * scale
        value = value if bias is None else value + bias
    else:
        total, own_scale = sums[0].float(), weight.scales_of(0, behind)
        if arithmetic.order is ScaleOrder.FUSED:
            value = fma(total * scale, own_scale, torch.zeros(()) if bias is None else bias)
        else:
            separate = arithmetic.order is ScaleOrder.SEPARATE
            value = total * scale * own_scale if separate else total * (scale * own_scale)
            value = value if bias is None else value + bias
    return Predicted(value=gemm.clamped(value), known=known)


def _any_order(gemm: DynamicGemm, operands: Operands, terms: list[Tensor]) -> Tensor:
    """Return where float32 holds every partial sum over groups, the zero point's share taken apart or not."""
    weight, shape = operands.weight, operands.steps.shape
    zeros = operands.qparams.zero_point.double().expand(shape)
    size = torch.zeros(terms[0].shape, dtype=torch.float64)
    grain = torch.full(terms[0].shape, torch.inf, dtype=torch.float64)
    for group, term in enumerate(terms):
        share = gemm(weight.within(zeros, group), weight.steps.double()) * weight.scales_of(group, 0).double()
        size = size + term.abs() + 2 * share.abs()
        grain = torch.minimum(grain, _low_bit(weight.scales_of(group, 0)))
    return size <= 2.0**24 * grain


def _low_bit(scales: Tensor) -> Tensor:
    """Return the value of the lowest set bit of each float32 number."""
    mantissa, exponent = torch.frexp(scales.double())
    whole = (mantissa * 2.0**53).long()
    return torch.ldexp((whole & -whole).double(), exponent - 53)
