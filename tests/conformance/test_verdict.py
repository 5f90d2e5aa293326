"""Which mismatches a verdict forgives, what it counts and what it says."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quantizer_sdk.conformance import ExactValue, boundary_codes, dot_ties, judge, mean_ties, tie_fraction
from quantizer_sdk.errors import InvalidSpecError


def requantized(*numbers, zero_point=0, quant_min=-128, quant_max=127):
    """Requantize plain numbers on a scale of 1, so that r is the number."""
    value = ExactValue.cat([ExactValue.from_rational(Fraction(n)).move(lambda t: t.reshape(1)) for n in numbers])
    return value.requantize(1, zero_point, quant_min, quant_max)


def codes(*numbers):
    return torch.tensor(numbers, dtype=torch.int8)


def test_exact_codes_conform_without_any_allowance():
    expected = requantized(0.5, 1.5, -2.25, 200, zero_point=3)
    verdict = judge(codes(3, 5, 1, 127), expected, 0.0)
    assert verdict.conforms
    assert (verdict.elements, verdict.mismatches, verdict.outside, verdict.near_tie) == (4, 0, 0, 0)
    assert (verdict.max_lsb, verdict.mean_error, verdict.distinct_codes) == (0, 0.0, 4)
    assert not verdict.constant
    assert verdict.saturated == 0.25
    assert verdict.worst is None
    assert str(verdict).startswith("conforms: 0 of 4 codes differ, 0 beyond δ; 0 lie within δ of a tie; at most 0 LSB")


@pytest.mark.parametrize(
    ("number", "code", "delta", "conforms"),
    [
        (1.5, 2, 0.0, True),
        (1.5, 1, 0.0, False),  # exact arithmetic must send ties to the even code
        (1.5, 1, 1e-9, True),
        (1.5, 3, 1e-9, False),
        (1.49, 2, 0.011, True),
        (1.49, 2, 0.009, False),
        (1.51, 1, 0.011, True),
        (1.51, 3, 0.011, False),
        (1.49, 0, 0.011, False),  # the other neighbour
        (-0.501, 0, 0.002, True),
        (-0.501, 0, 0.0005, False),
        (1.0, 3, 1.4, False),  # at δ of 1/2 and more, whatever some number within δ rounds to
        (1.0, 3, 1.6, True),
    ],
)
def test_only_the_neighbour_across_a_tie_within_delta_is_forgiven(number, code, delta, conforms):
    verdict = judge(codes(code), requantized(number), delta)
    assert verdict.conforms == conforms
    assert verdict.outside == (0 if conforms else 1)
    assert verdict.mismatches == (1 if code != round(Fraction(number)) else 0)


@pytest.mark.parametrize(
    ("number", "code", "conforms"),
    [(127.49, 127, True), (500.0, 127, True), (500.0, 126, False), (126.501, 126, True), (-128.5, -128, True)],
)
def test_the_end_codes_reach_to_infinity(number, code, conforms):
    assert judge(codes(code), requantized(number), 0.01).conforms == conforms


def test_codes_beyond_the_declared_range_are_outside_whatever_delta():
    expected = requantized(-3.0, zero_point=-10, quant_min=-10, quant_max=50)
    assert int(expected.expected) == -10
    assert not judge(codes(-13), expected, 100.0).conforms


@given(
    st.lists(st.fractions(-140, 140, max_denominator=50), min_size=1, max_size=8),
    st.integers(-20, 20),
    st.sampled_from([1e-6, 0.01, 0.1, 0.3, 0.49]),
)
@settings(max_examples=60, deadline=None)
def test_delta_covers_any_kernel_whose_r_lies_within_it(numbers, zero_point, delta):
    expected = requantized(*numbers, zero_point=zero_point)
    for shift in (-delta, -delta / 2, 0, delta / 2, delta):
        moved = [round(n + Fraction(shift)) + zero_point for n in numbers]
        actual = torch.tensor([min(max(m, -128), 127) for m in moved])
        verdict = judge(actual, expected, delta * (1 + 1e-9))
        assert verdict.conforms
        assert verdict.mismatches <= verdict.near_tie


def test_near_ties_that_saturate_are_not_counted():
    assert judge(codes(127, 127, 0), requantized(300.5, 127.5, 0.5), 0.1).near_tie == 1


def test_delta_may_differ_by_element():
    expected = requantized(0.49, 0.49)
    assert judge(codes(1, 0), expected, torch.tensor([0.02, 0.0], dtype=torch.float64)).conforms
    assert not judge(codes(0, 1), expected, torch.tensor([0.02, 0.0], dtype=torch.float64)).conforms


def test_the_worst_element_is_named():
    value = ExactValue.from_quantized(torch.tensor([[0, 10], [23, 30]]), 0.1)
    expected = value.requantize(1.0, 0, -128, 127)
    verdict = judge(torch.tensor([[0, 4], [-5, 3]]), expected, 1e-3)
    assert not verdict.conforms
    assert (verdict.mismatches, verdict.outside, verdict.max_lsb) == (2, 2, 7)
    assert verdict.mean_error == -1.0
    assert verdict.worst is not None
    assert verdict.worst.index == (1, 0)
    text = str(verdict)
    assert text.startswith("DOES NOT CONFORM: 2 of 4 codes differ, 2 beyond δ")
    assert text.endswith("worst at (1, 0): actual -5, expected 2, r = 2.3, half-distance 0.2, δ = 0.001")


def test_an_element_outside_is_worse_than_a_larger_forgiven_mismatch():
    verdict = judge(codes(3, 1), requantized(1.0, 0.3), torch.tensor([2.0, 0.1], dtype=torch.float64))
    assert verdict.worst is not None
    assert verdict.worst.index == (1,)


@pytest.mark.parametrize(("actual", "constant"), [((3, 3), True), ((3, 4), False)])
def test_constant_outputs_are_flagged(actual, constant):
    assert judge(codes(*actual), requantized(3.0, 4.0), 0.0).constant == constant


def test_no_elements_is_a_constant_output():
    value = ExactValue.from_quantized(torch.zeros(0, 3, dtype=torch.int8), 1.0)
    verdict = judge(torch.zeros(0, 3, dtype=torch.int8), value.requantize(1.0, 0, -128, 127), 0.0)
    assert (verdict.elements, verdict.constant, verdict.worst) == (0, True, None)


@pytest.mark.parametrize(
    ("actual", "delta"),
    [
        (torch.zeros(2), 0.0),
        (torch.zeros(3, dtype=torch.int8), 0.0),
        (torch.zeros(2, dtype=torch.int8), torch.zeros(3, dtype=torch.float64)),
    ],
    ids=["float codes", "shape of codes", "shape of delta"],
)
def test_what_cannot_be_compared_is_refused(actual, delta):
    with pytest.raises(InvalidSpecError, match=r"expected integers and δ of shape \(2,\)"):
        judge(actual, requantized(1.0, 2.0), delta)


@pytest.mark.parametrize(
    ("zero_point", "expected"),
    [(3, [-128, -127, 2, 3, 4, 126, 127]), (-128, [-128, -127, 126, 127]), (127, [-128, -127, 126, 127])],
)
def test_boundary_codes(zero_point, expected):
    assert boundary_codes(zero_point).tolist() == expected
    assert boundary_codes(zero_point).dtype == torch.int8


def test_tie_fraction_counts_ties_between_two_codes_only():
    assert tie_fraction(requantized(0.5, 0.25, -3.5, 500.5)) == 0.5
    assert tie_fraction(requantized(127.5, -128.5, 127.25)) == 0.0
    assert tie_fraction(ExactValue.from_float(torch.zeros(0)).requantize(1.0, 0, -128, 127)) == 0.0


def test_tie_cases_are_reproducible_and_hold_the_boundary_codes():
    first, again, other = (dot_ties((2, 40), (3, 40), seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first.codes, again.codes, strict=True))
    assert not torch.equal(first.codes[0], other.codes[0])
    assert set(boundary_codes(3).tolist()) <= set(first.codes[0].flatten().tolist())


@pytest.mark.parametrize("count", [0, 3, 49])
def test_a_mean_without_dyadic_output_scale_is_refused(count):
    with pytest.raises(InvalidSpecError, match=f"a mean over {count} elements; expected a power of two"):
        mean_ties((1, 1, 7, 7), count)
