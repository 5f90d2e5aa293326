"""What a gemm of run-time qparams must give, and how far kernels and the eager graph may stray from it.

The rule: a row whose values, and 0, lie in [low, high] has the scale s = (high - low) / n, n steps from the first code
to the last, but no smaller one than the floor; the zero point is the nearest code to first - low / s, or to last - high
/ s, of the end that is farther off a code; a value is round(x / s) steps, held within the codes. All of it is evaluated
in float64, in the place of exact numbers: its error is 2^-29 of a float32 roundoff.

A kernel takes up to four roundings to x / s, so that next to a tie either code may come: such a step moves the results
that it goes into by up to |s·w|. All else that rounds is the scaling of an exact integer accumulator.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor
from torch.fx import GraphModule

from quantizer_sdk.conformance.bounds import Traced
from quantizer_sdk.conformance.dynamic_gemms import DynamicGemm, rows_of
from quantizer_sdk.conformance.dynamic_weights import StoredWeight
from quantizer_sdk.conformance.exact import ExactValue, Term
from quantizer_sdk.conformance.roundoff import gamma
from quantizer_sdk.errors import UnsupportedError
from quantizer_sdk.profile import Family

__all__ = ["Bounded", "Rule", "kernel_bound", "own_axes", "trace"]

_TO_CODE = 4
"""Roundings from a value to its code: of the range, its division, a reciprocal and a product."""

_TO_RESULT = 6
"""Roundings from an accumulator to a result without its bias: its conversion, three of a scale, and two products."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rule:
    """What the rule makes of an activation, a row for each scale.

    Attributes:
        scale: float64 [rows, 1].
        zero: The zero point before rounding, float64 [rows, 1].
        r: The values in units of the scale, float64 [rows, values].
        flat: Whether all values of a row are 0, so that any scale does, bool [rows, 1].
        low: The smallest code.
        high: The largest code.
    """

    scale: Tensor
    zero: Tensor
    r: Tensor
    flat: Tensor
    low: int
    high: int

    @classmethod
    def of(cls, x: Tensor, own: int, codes: tuple[int, int], floor: float) -> Rule:
        """Apply it to a finite float32 activation whose first `own` axes have scales for each index."""
        low, high = codes
        values = rows_of(x, own).double()
        least = values.amin(1, keepdim=True).clamp(max=0.0)
        most = values.amax(1, keepdim=True).clamp(min=0.0)
        flat = least == most
        scale = torch.where(flat, 1.0, ((most - least) / (high - low)).clamp(min=floor))
        first, last = low - least / scale, high - most / scale  # the same, but where the floor holds the scale
        zero = torch.where(low + high + (least + most) / scale > 0, first, last).clamp(low, high)
        return cls(scale=scale, zero=zero, r=values / scale, flat=flat, low=low, high=high)

    def steps(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the steps from the zero point, int64, and the least and the largest that a kernel may come to."""
        slack = gamma(_TO_CODE + 1) * (self.zero.abs() + self.high - self.low)
        zeros = torch.round(self.zero), torch.ceil(self.zero - slack - 0.5), torch.floor(self.zero + slack + 0.5)
        zero, least, most = (value.clamp(self.low, self.high) for value in zeros)
        delta = gamma(_TO_CODE) * self.r.abs()
        expected = torch.minimum(torch.maximum(torch.round(self.r), self.low - zero), self.high - zero)
        below = torch.ceil(self.r - delta - 0.5)
        above = torch.floor(self.r + delta + 0.5)
        below = torch.minimum(torch.maximum(below, self.low - most), self.high - most)
        above = torch.minimum(torch.maximum(above, self.low - least), self.high - least)
        return expected.long(), torch.minimum(below, expected).long(), torch.maximum(above, expected).long()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Bounded:
    """The results of a gemm.

    Attributes:
        exact: float64.
        bound: How far a kernel's float32 results may be from them, float64.
        open: Whether a result holds a code that may be another one, bool.
    """

    exact: Tensor
    bound: Tensor
    open: Tensor


def own_axes(gemm: DynamicGemm, x: Tensor) -> int:
    """Return how many of an activation's first axes have scales for each index.

    Raises:
        UnsupportedError: Its blocks are neither rows nor samples nor the whole tensor.
    """
    own = gemm.own_axes(x.dim())
    if own is None:
        raise UnsupportedError(f"{gemm.choose.name} chooses qparams for blocks {gemm.choose.args[1]}; expected rows")
    return own


def kernel_bound(model: GraphModule, gemm: DynamicGemm, x: Tensor, floor: float) -> Bounded:
    """Return the results for a finite float32 activation, and how far a kernel may be from them.

    Args:
        model: The converted graph.
        gemm: One of its gemms.
        x: What the gemm's quantize reads.
        floor: The smallest scale.
    """
    own = own_axes(gemm, x)
    rule = Rule.of(x, own, gemm.code_range, floor)
    weight = StoredWeight.of(model, gemm.weight)
    steps, least, most = (part.double().reshape(x.shape) for part in rule.steps())
    real, size = weight.real, weight.real.abs()
    total = gemm(steps, real)
    scale = rule.scale.reshape(*x.shape[:own], *(1,) * (total.dim() - own))
    parts = total.abs()
    if weight.group is not None:  # a kernel may sum up the zero point's share of a group for itself
        zeros = torch.round(rule.zero).abs().reshape(*x.shape[:own], 1).expand(x.shape)
        own_parts = [
            gemm(weight.within(steps, g), real).abs() + 2 * gemm(weight.within(zeros, g), size)
            for g in range(weight.groups)
        ]
        parts = torch.stack(own_parts).sum(0)
    wobble = torch.maximum(most - steps, steps - least)
    slack = gemm(wobble, size) * scale
    exact, rounded = total * scale, parts * scale
    bias = gemm.bias(model)
    if bias is not None:
        exact = exact + bias.double()
        rounded = rounded + bias.double().abs()
    bound = gamma(_TO_RESULT + weight.groups) * (rounded + slack) + slack
    bound = bound + 2.0**-149  # a result may be subnormal
    return Bounded(exact=gemm.clamped(exact), bound=bound, open=slack > 0)


def trace(model: GraphModule, gemm: DynamicGemm, steps: Tensor, scales: Tensor) -> Traced:
    """Return the exact result of given steps, before clamps, and how far the eager float32 graph may be from it.

    Args:
        model: The converted graph.
        gemm: One of its gemms.
        steps: int64 codes without their zero points.
        scales: The scale of each, which broadcasts over them.
    """
    unique, which = torch.unique(scales.double(), return_inverse=True)
    weight = StoredWeight.of(model, gemm.weight)
    found = []
    for values, place, table in (
        (steps, which.expand(steps.shape), unique),
        (weight.steps, weight.which(), weight.scales.flatten().double()),
    ):
        exact = ExactValue((Term(values, place, tuple(map(Fraction, table.tolist()))),))
        error = gamma(1) * exact.approximate().abs()
        found.append(Traced(exact=exact, error=error, grain=None, family=Family.MOVE))
    left, right = found
    bias = gemm.bias(model)
    transposed = "transpose" in str(gemm.node.target)
    return left.contract(
        right,
        None if bias is None else Traced.constant(bias.flatten()),
        gemm,
        keep=gemm.weight_axis,
        lanes=-1 - gemm.axes_behind(model),
        repeat=int(str(gemm.node.args[6])) if transposed and len(gemm.node.args) > 6 else 1,
    )
