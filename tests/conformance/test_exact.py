"""Exact values against plain Python rationals, one element at a time."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F  # noqa: N812

from quantizer_sdk.conformance import ExactValue, Term
from quantizer_sdk.errors import InvalidSpecError, UnsupportedError

dyadic = st.integers(-6, 3).map(lambda exponent: 2.0**exponent)
float32 = st.floats(2.0**-12, 4.0, width=32)
double = st.floats(2.0**-12, 4.0)
scales = st.one_of(dyadic, float32, double)
codes = st.one_of(st.integers(-128, 127), st.sampled_from([-128, 127, 0]))


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Tiny convolutions spend their time waiting for each other's threads on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


few = settings(max_examples=40, deadline=None)


@st.composite
def quantized(draw, shape, axis=None, scale=scales):
    """An exact value and the same numbers as an object array of rationals."""
    count = math.prod(shape)
    flat = draw(st.lists(codes, min_size=count, max_size=count))
    channels = 1 if axis is None else shape[axis]
    steps = draw(st.lists(scale, min_size=channels, max_size=channels))
    zeros = draw(st.lists(st.integers(-128, 127), min_size=channels, max_size=channels))
    q = torch.tensor(flat, dtype=torch.int8).reshape(shape)
    value = (
        ExactValue.from_quantized(q, steps[0], zeros[0])
        if axis is None
        else ExactValue.from_quantized(q, steps, zeros, axis)
    )
    naive = np.empty(shape, dtype=object)
    for index in np.ndindex(*shape):
        channel = 0 if axis is None else index[axis]
        naive[index] = (int(q[index]) - zeros[channel]) * Fraction(steps[channel])
    return value, naive


def rationals(value: ExactValue) -> np.ndarray:
    """Read an exact value element by element."""
    result = np.empty(tuple(value.shape), dtype=object)
    for index in np.ndindex(*value.shape):
        total = sum(int(t.values[index]) * t.scales[int(t.which[index])] for t in value.terms)
        for low, high in value.clamps:
            total = total if low is None else max(total, low)
            total = total if high is None else min(total, high)
        result[index] = Fraction(total)
    return result


def same(value: ExactValue, naive: np.ndarray) -> bool:
    return tuple(value.shape) == naive.shape and bool(np.all(rationals(value) == naive))


def naive_conv(x, w, *, stride=1, padding=0, dilation=1, groups=1):
    """Convolution over every axis behind the first two, by its definition."""
    rank = w.ndim - 2
    x = np.pad(x, [(0, 0), (0, 0)] + [(padding, padding)] * rank, constant_values=Fraction(0))
    sizes = [(x.shape[2 + i] - dilation * (w.shape[2 + i] - 1) - 1) // stride + 1 for i in range(rank)]
    out = np.full((x.shape[0], w.shape[0], *sizes), Fraction(0), dtype=object)
    for n, o, *place in np.ndindex(*out.shape):
        for i, *tap in np.ndindex(*w.shape[1:]):
            channel = o // (w.shape[0] // groups) * w.shape[1] + i
            at = tuple(p * stride + t * dilation for p, t in zip(place, tap, strict=True))
            out[(n, o, *place)] += x[(n, channel, *at)] * w[(o, i, *tap)]
    return out


def naive_conv_transpose(x, w, *, stride=1, groups=1):
    """Transposed convolution by its definition: every input element is spread over a window."""
    rank = w.ndim - 2
    sizes = [(x.shape[2 + i] - 1) * stride + w.shape[2 + i] for i in range(rank)]
    out = np.full((x.shape[0], w.shape[1] * groups, *sizes), Fraction(0), dtype=object)
    for n, i, *place in np.ndindex(*x.shape):
        for o, *tap in np.ndindex(*w.shape[1:]):
            channel = i // (x.shape[1] // groups) * w.shape[1] + o
            at = tuple(p * stride + t for p, t in zip(place, tap, strict=True))
            out[(n, channel, *at)] += x[(n, i, *place)] * w[(i, o, *tap)]
    return out


def kernel(function, **options):
    return lambda x, w: function(x, w, None, **options)


CONVOLUTIONS = {
    1: ((1, 4, 5), (4, 2, 3)),
    2: ((2, 4, 4, 3), (4, 2, 2, 3)),
    3: ((1, 2, 3, 2, 3), (2, 1, 2, 1, 2)),
}


@pytest.mark.parametrize("rank", CONVOLUTIONS)
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_conv(rank, axis):
    shape, weight_shape = CONVOLUTIONS[rank]

    @settings(max_examples=12, deadline=None)
    @given(quantized(shape), quantized(weight_shape, axis), st.integers(1, 2), st.integers(0, 1))
    def check(x, w, stride, padding):
        options = {"stride": stride, "padding": padding, "groups": 2}
        function = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
        value = x[0].contract(w[0], kernel(function, **options), keep=0, lanes=-1 - rank)
        assert same(value, naive_conv(x[1], w[1], **options))

    check()


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_conv_transpose(rank, axis):
    @settings(max_examples=12, deadline=None)
    @given(quantized((1, 4, 3, 2)[: 2 + rank]), quantized((4, 2, 2, 3)[: 2 + rank], axis), st.integers(1, 2))
    def check(x, w, stride):
        function = (F.conv_transpose1d, F.conv_transpose2d)[rank - 1]
        placement = {"keep": 1, "lanes": -1 - rank, "repeat": 2}
        value = x[0].contract(w[0], kernel(function, stride=stride, groups=2), **placement)
        assert same(value, naive_conv_transpose(x[1], w[1], stride=stride, groups=2))

    check()


@few
@given(quantized((3, 4)), quantized((2, 4), 0), quantized((2,), 0))
def test_linear_with_bias(x, w, b):
    assert same(x[0].contract(w[0], F.linear, keep=0).add(b[0]), x[1] @ w[1].T + b[1])


@few
@given(quantized((2, 3, 4), 1), quantized((4, 2), 1))
def test_matmul(x, w):
    assert same(x[0].contract(w[0], torch.matmul, keep=1), x[1] @ w[1])


@few
@given(quantized((2, 4), 1), quantized((4, 2), 0))
def test_scales_along_the_summed_axis_split_the_terms(x, w):
    value = x[0].contract(w[0], torch.matmul, keep=1)
    assert same(value, x[1] @ w[1])
    assert all(len(term.scales) == 1 for term in value.terms)


@few
@given(quantized((2, 3), 1), quantized((3,)), st.fractions(-3, 3, max_denominator=7))
def test_elementwise(a, b, factor):
    assert same(a[0].add(b[0]), a[1] + b[1])
    assert same(a[0].add(b[0].scaled(Fraction(-1))), a[1] - b[1])
    assert same(a[0].mul(b[0]), a[1] * b[1])
    assert same(a[0].scaled(factor), a[1] * factor)
    assert same(a[0].add(ExactValue.from_rational(factor)), a[1] + factor)
    assert same(a[0].add(b[0]).mul(a[0]), (a[1] + b[1]) * a[1])


@few
@given(quantized((2, 3, 2), 1), st.sampled_from([(0,), (1,), (-1, 0), (0, 1, 2)]), st.booleans())
def test_sum_and_mean(a, axes, keepdim):
    total = np.array(a[1].sum(axis=tuple(axes), keepdims=keepdim), dtype=object)
    mean = np.array(total / math.prod(a[1].shape[axis] for axis in axes), dtype=object)
    assert same(a[0].sum(axes, keepdim), total)
    assert same(a[0].mean(axes, keepdim), mean)


@few
@given(quantized((2, 3, 4), 1))
def test_data_movement_carries_the_channel_axis_along(a):
    value, naive = a
    assert same(value.move(lambda t: t.reshape(6, 4)), naive.reshape(6, 4))
    assert same(value.move(lambda t: t.permute(2, 0, 1)), naive.transpose(2, 0, 1))
    assert same(value.move(lambda t: t[:, 1:, ::2]), naive[:, 1:, ::2])
    assert same(value.move(lambda t: t.reshape(2, 12)[:, 5:]), naive.reshape(2, 12)[:, 5:])
    assert same(value.pad([1, 2]), np.pad(naive, [(0, 0), (0, 0), (1, 2)], constant_values=Fraction(0)))
    pooled = value.max_pool(lambda t: F.max_pool1d(t, 2, 1), spatial=1)
    assert same(pooled, np.maximum(naive[:, :, :-1], naive[:, :, 1:]))


@few
@given(quantized((2, 2), 1), quantized((2, 3)), quantized((2,), 0))
def test_cat(a, b, c):
    assert same(ExactValue.cat([a[0], b[0]], 1), np.concatenate([a[1], b[1]], 1))
    assert same(ExactValue.cat([b[0], a[0].add(c[0])], 1), np.concatenate([b[1], a[1] + c[1]], 1))
    twice = ExactValue.cat([b[0], b[0]], 0)
    assert same(twice, np.concatenate([b[1], b[1]], 0))
    assert len(twice.terms[0].scales) == 1


@few
@given(quantized((4,)), quantized((4,)), st.fractions(-2, 2, max_denominator=9), st.fractions(-2, 2, max_denominator=9))
def test_clamps_apply_in_order(a, b, low, high):
    value = a[0].add(b[0]).clamp(low, None).clamp(None, high)
    assert same(value, np.minimum(np.maximum(a[1] + b[1], low), high))
    assert same(value.move(lambda t: t.flip(0)), np.minimum(np.maximum(a[1] + b[1], low), high)[::-1])


@few
@given(quantized((2, 3), 1), quantized((3, 2), scale=dyadic), st.integers(-9, 9))
def test_clamps_on_whole_steps_are_resolved(a, b, bound):
    relu = np.maximum(a[1], Fraction(0))
    assert same(a[0].clamp(Fraction(0)).contract(b[0], torch.matmul, keep=1), relu @ b[1])
    limit = bound * b[0].terms[0].scales[0]
    assert same(b[0].clamp(None, limit).mul(b[0]), np.minimum(b[1], limit) * b[1])
    assert same(b[0].clamp(limit).pad([1, 0]), np.pad(np.maximum(b[1], limit), [(0, 0), (1, 0)], constant_values=0))
    assert same(ExactValue.cat([a[0].clamp(Fraction(0)), a[0]]), np.concatenate([relu, a[1]]))


def test_a_clamp_between_steps_cannot_be_resolved():
    value = ExactValue.from_quantized(torch.tensor([1, 2]), 0.5).clamp(Fraction(1, 3))
    with pytest.raises(UnsupportedError, match="mul of a value clamped at 1/3; expected a quantize before it"):
        value.mul(value)


@few
@given(st.lists(st.one_of(st.floats(width=32, allow_nan=False, allow_infinity=False), st.just(0.0)), max_size=6))
def test_float32_constants_are_exact(numbers):
    value = ExactValue.from_float(torch.tensor(numbers, dtype=torch.float32))
    assert same(value, np.array([Fraction(number) for number in numbers], dtype=object))


@few
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=6))
def test_float64_constants_are_exact(numbers):
    value = ExactValue.from_float(torch.tensor(numbers, dtype=torch.float64))
    assert same(value, np.array([Fraction(number) for number in numbers], dtype=object))


def agrees(value: ExactValue, scale: float | Fraction, zero_point: int) -> bool:
    """Whether requantize gives what Python's own half-even rounding of rationals gives."""
    result = value.requantize(scale, zero_point, -128, 127)
    for index, number in np.ndenumerate(rationals(value)):
        r = number / Fraction(scale)
        distance = abs(r - math.floor(r) - Fraction(1, 2))
        assert int(result.expected[index]) == min(max(round(r) + zero_point, -128), 127)
        assert float(result.r[index]) == pytest.approx(float(r), rel=1e-9, abs=1e-9)
        assert float(result.half_distance[index]) == pytest.approx(float(distance), abs=1e-9)
        assert (float(result.half_distance[index]) == 0.0) == (distance == 0)
    return True


@settings(max_examples=150, deadline=None)
@given(quantized((3, 2), 1), quantized((2,)), scales, st.integers(-128, 127), st.booleans())
def test_requantize(a, b, scale, zero_point, clamped):
    value = a[0].add(b[0])
    value = value.clamp(Fraction(-1, 3), Fraction(7, 2)) if clamped else value
    assert agrees(value, scale, zero_point)
    assert agrees(a[0], scale, zero_point)


@few
@given(quantized((40,), scale=dyadic), quantized((40,), scale=dyadic), dyadic, st.integers(-9, 9))
def test_requantize_on_dyadic_scales(a, b, scale, zero_point):
    assert agrees(a[0].mul(b[0]).add(a[0]), scale, zero_point)


@few
@given(st.integers(2**51, 2**53), st.integers(2**51, 2**53), st.integers(-100, 100), st.sampled_from([-1, 0, 1]))
def test_ties_that_float64_cannot_decide(numerator, denominator, steps, nudge):
    """Two terms whose scales add up to half the output's, and a third that moves the tie by 2^-180 or not at all."""
    scale = Fraction(denominator, numerator)
    first = Fraction(numerator, 3 * denominator) % (scale / 2)
    assume(first)
    values = torch.tensor([2 * steps + 1])
    terms = (term(values, first), term(values, scale / 2 - first), term(torch.tensor([nudge]), scale / 2**180))
    value = ExactValue(terms)
    assert agrees(value, scale, 3)
    result = value.requantize(scale, 0, -128, 127)
    assert float(result.half_distance[0]) == (2.0**-180 if nudge else 0.0)
    assert int(result.expected[0]) == (steps + (nudge > 0) if nudge else round(Fraction(2 * steps + 1, 2)))


def term(values, scale):
    return Term(values, torch.zeros_like(values), (scale,))


def test_half_distance_survives_far_below_float64_resolution():
    value = ExactValue((term(torch.tensor([1]), Fraction(1, 2)), term(torch.tensor([1]), Fraction(1, 3**200))))
    result = value.requantize(1, 0, -128, 127)
    assert int(result.expected[0]) == 1
    assert float(result.half_distance[0]) == pytest.approx(float(Fraction(1, 3**200)), rel=1e-12)


def test_empty_tensors():
    x = ExactValue.from_quantized(torch.zeros(0, 4, dtype=torch.int8), 0.3, 1)
    w = ExactValue.from_quantized(torch.ones(2, 4, dtype=torch.int8), [0.1, 0.2], 0, 0)
    value = x.contract(w, F.linear, keep=0).add(x.sum([1], keepdim=True))
    assert value.requantize(0.1, 0, -128, 127).expected.shape == (0, 2)
    assert value.requantize(1.0, 0, -128, 127).expected.dtype == torch.int64


def test_accumulations_beyond_float64_are_refused():
    x = ExactValue.from_quantized(torch.full((1, 8), 2**25), 1.0)
    w = ExactValue.from_quantized(torch.full((1, 8), 2**24), 1.0)
    assert int(x.contract(w, F.linear, keep=0).terms[0].values) == 2**52
    twice = ExactValue.from_quantized(torch.full((1, 8), 2**25), 1.0)
    with pytest.raises(UnsupportedError, match=f"{2**53} in one tensor; exact arithmetic holds below {2**53}"):
        x.contract(twice, F.linear, keep=0)


def test_products_and_sums_beyond_int64_are_refused():
    x = ExactValue.from_quantized(torch.tensor([2**40, -(2**40)]), 1.0)
    with pytest.raises(UnsupportedError, match="in one tensor"):
        x.mul(x)
    with pytest.raises(UnsupportedError, match="in one tensor"):
        x.mul(ExactValue.from_quantized(torch.tensor([2**21]), 1.0)).sum([0])


def test_maximum_over_several_scales_is_refused():
    x = ExactValue.from_quantized(torch.zeros(1, 1, 4, dtype=torch.int8), [0.1, 0.2, 0.1, 0.1], [0, 0, 0, 0], axis=2)
    with pytest.raises(UnsupportedError, match="maximum over values of several scales"):
        x.max_pool(lambda t: F.max_pool1d(t, 2), spatial=1)


@pytest.mark.parametrize(
    ("scale", "zero_point", "axis"),
    [(0.0, 0, None), (-1.0, 0, None), (math.inf, 0, None), (math.nan, 0, None), ([1.0, 2.0], 0, 0), ([1.0], 0, None)],
)
def test_wrong_scales_are_refused(scale, zero_point, axis):
    if scale == [1.0]:
        scale = [1.0, 1.0]
    with pytest.raises(InvalidSpecError, match="positive finite scales and as many zero points"):
        ExactValue.from_quantized(torch.zeros(3, dtype=torch.int8), scale, zero_point, axis)


@pytest.mark.parametrize("scale", [0.0, -1.0, math.inf, math.nan])
def test_wrong_output_scales_are_refused(scale):
    with pytest.raises(InvalidSpecError, match="expected a positive finite one"):
        ExactValue.from_rational(Fraction(1)).requantize(scale, 0, -128, 127)


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_constants_that_are_no_numbers_are_refused(number):
    with pytest.raises(InvalidSpecError, match="NaN or infinity"):
        ExactValue.from_float(torch.tensor([1.0, number]))


def test_approximation():
    a = ExactValue.from_quantized(torch.tensor([[3, 5]]), [0.5, 0.25], [1, 1], axis=1)
    value = a.add(a).clamp(None, Fraction(9, 5)).clamp(Fraction(-1), None)
    assert value.approximate().tolist() == [[1.8, 1.8]]
    assert list(itertools.chain(*a.approximate().tolist())) == [1.0, 1.0]
