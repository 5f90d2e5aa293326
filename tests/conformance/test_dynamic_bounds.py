"""The rule of run-time qparams and its bounds, against rationals, right kernels and wrong ones."""

import math
from fractions import Fraction

import pytest
import torch
from dynamic_graphs import DynamicConv, DynamicLinear, exported
from hypothesis import given, settings
from hypothesis import strategies as st

from quantizer_sdk.conformance.dynamic_bounds import Rule, kernel_bound, trace
from quantizer_sdk.conformance.dynamic_emulator import choose, operands_of, predict, scaled
from quantizer_sdk.conformance.dynamic_gemms import dynamic_gemms, observed, rows_of
from quantizer_sdk.conformance.dynamic_inputs import float_inputs
from quantizer_sdk.conformance.dynamic_weights import StoredWeight
from quantizer_sdk.errors import UnsupportedError
from quantizer_sdk.profile import DynamicArithmetic, RunTimeScale, ScaleOrder

CODES = (-128, 127)
NUMBERS = st.floats(-1e6, 1e6, width=32, allow_nan=False)
ARITHMETICS = [DynamicArithmetic(scale=scale, order=order) for scale in RunTimeScale for order in ScaleOrder]


def one_gemm(module, x):
    model = exported(module, x)
    (gemm,) = dynamic_gemms(model)
    return model, gemm


def exact_steps(row):
    """The rule in rationals, ties to the even step; None where a tie leaves two."""
    values = [Fraction(value) for value in row]
    low, high = min(0, *values), max(0, *values)
    if low == high:
        return [0] * len(values)
    scale = (high - low) / 255
    zero = min(max(round(-128 - low / scale), -128), 127)
    return [min(max(round(value / scale), -128 - zero), 127 - zero) for value in values]


@settings(max_examples=200, deadline=None)
@given(st.lists(NUMBERS, min_size=2, max_size=6))
def test_steps_are_those_of_the_rule_in_rationals(row):
    rule = Rule.of(torch.tensor([row]), 1, CODES, 0.0)
    found, least, most = (part[0].tolist() for part in rule.steps())
    wanted = exact_steps(torch.tensor(row).tolist())
    assert all(low <= step <= high for low, step, high in zip(least, found, most, strict=True))
    assert all(low <= step <= high for low, step, high in zip(least, wanted, most, strict=True))
    assert all(high - low <= 2 for low, high in zip(least, most, strict=True))


@settings(max_examples=200, deadline=None)
@given(st.lists(NUMBERS, min_size=2, max_size=6), st.sampled_from(ARITHMETICS))
def test_kernels_of_any_arithmetic_come_to_steps_that_the_rule_leaves_open(row, arithmetic):
    x = torch.tensor([row])
    if 0 < float(x.abs().max()) < 1e-30:
        return  # the inverse of the scale overflows, of which nothing here speaks
    qparams = choose(x, CODES, arithmetic)
    rule = Rule.of(x, 1, CODES, 0.0)
    _, least, most = rule.steps()
    steps = (torch.round(x * qparams.inverse) + qparams.zero_point).clamp(*CODES) - qparams.zero_point
    assert bool(((least <= steps) & (steps <= most)).all())
    assert bool((~rule.flat <= ((qparams.scale - rule.scale).abs() <= 3e-7 * rule.scale)).all())


def test_a_floor_holds_the_scale_and_moves_the_zero_point_to_an_end():
    rule = Rule.of(torch.tensor([[1e-12, -1e-12]]), 1, CODES, 2.0**-23)
    assert float(rule.scale) == 2.0**-23
    assert float(rule.zero) == pytest.approx(127, abs=1e-3)
    assert rule.steps()[0].tolist() == [[0, 0]]


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@pytest.mark.parametrize("kind", ["generic", "rows_unequal", "rows_flat", "rows_extreme"])
@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (DynamicLinear(64, 9), (5, 64)),
        (DynamicLinear(64, 9, bits=4, group=32), (5, 64)),
        (DynamicLinear(33, 9, bias=False, relu=True), (2, 3, 33)),
        (DynamicConv(4, 6), (3, 4, 6, 6)),
        (DynamicConv(4, 6, transposed=True), (3, 4, 5, 5)),
    ],
)
def test_right_kernels_stay_within_the_bound_and_use_some_of_it(module, shape, kind, arithmetic):
    own = 1 if len(shape) == 4 else len(shape) - 1
    model, gemm = one_gemm(module, torch.randn(shape))
    x = float_inputs(shape, own, kind, 3)
    found = predict(model, gemm, x, arithmetic).value
    bounded = kernel_bound(model, gemm, x, 0.0)
    ratio = (found.double() - bounded.exact).abs() / bounded.bound
    assert float(ratio.max()) <= 1
    assert kind == "rows_flat" or float(ratio.max()) > 0.01


def test_one_scale_for_all_rows_leaves_it():
    model, gemm = one_gemm(DynamicLinear(64, 9), torch.randn(4, 64))
    other, per_tensor = one_gemm(DynamicLinear(64, 9, per_tensor=True), torch.randn(4, 64))
    x = float_inputs((4, 64), 1, "rows_unequal", 0)
    bounded = kernel_bound(model, gemm, x, 0.0)
    found = predict(other, per_tensor, x, DynamicArithmetic()).value
    assert float(((found.double() - bounded.exact).abs() / bounded.bound).max()) > 1000


@pytest.mark.parametrize("group", [None, 32])
def test_the_trace_is_the_result_in_rationals(group):
    model, gemm = one_gemm(DynamicLinear(64, 3, bits=4, group=group), torch.randn(2, 64))
    x = torch.randn(2, 64)
    seen = observed(model, (x,))
    scale, zero = seen[gemm.choose]
    steps = seen[gemm.quantize].long() - zero
    traced = trace(model, gemm, steps, scale.expand(steps.shape))
    weight = StoredWeight.of(model, gemm.weight)
    scales = weight.scales.flatten()[weight.which()]
    for row in range(2):
        for out in range(3):
            total = sum(
                int(steps[row, k]) * int(weight.steps[out, k]) * Fraction(float(scales[out, k])) for k in range(64)
            )
            wanted = total * Fraction(float(scale[row])) + Fraction(float(gemm.bias(model)[out]))
            assert math.isclose(float(traced.exact.approximate()[row, out]), float(wanted), rel_tol=1e-12)
    error = (seen[gemm.node].double() - traced.exact.approximate()).abs()
    assert bool((error <= traced.error).all())
    assert float((traced.error / traced.exact.approximate().abs().mean()).max()) < 1e-4


def test_sums_over_groups_that_depend_on_their_order_are_not_predicted():
    module = DynamicLinear(64, 3, bits=4, group=32)
    module.scales.mul_(torch.tensor([1.0, 2.0**-20]))
    model, gemm = one_gemm(module, torch.randn(2, 64))
    x = torch.randn(2, 64)
    assert not bool(predict(model, gemm, x, DynamicArithmetic()).known.any())
    plain, other = one_gemm(DynamicLinear(64, 3), x)
    assert bool(scaled(other, operands_of(plain, other, x, DynamicArithmetic()), DynamicArithmetic()).known.all())


def test_blocks_that_are_no_rows_have_no_exact_form():
    model, gemm = one_gemm(DynamicConv(4, 6), torch.randn(1, 4, 6, 6))
    gemm.choose.args = (gemm.choose.args[0], [1, 1, -1, 2], *gemm.choose.args[2:])
    with pytest.raises(UnsupportedError, match="expected rows"):
        kernel_bound(model, gemm, torch.randn(1, 4, 6, 6), 0.0)


def test_rows_are_what_has_one_scale():
    assert rows_of(torch.zeros(2, 3, 4), 2).shape == (6, 4)
    assert rows_of(torch.zeros(2, 3, 4), 0).shape == (1, 24)
