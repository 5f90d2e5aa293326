"""The arithmetic from a range to scale and zero point, as properties over all ranges, schemes and integer types."""

import math

import hypothesis.strategies as st
import pytest
import torch
import torch.ao.quantization.observer as torch_observer
from hypothesis import given, settings

from quantizer_sdk.dtypes import INTEGER_RANGES
from quantizer_sdk.observers import MinMaxObserver, PerChannelMinMaxObserver
from quantizer_sdk.qparams import choose_qparams, default_eps, symmetric_zero_point

RANGES = [*INTEGER_RANGES.values(), (-127, 127), (0, 127), (-8, 7), (0, 1)]
SMALL_RANGES = [one for one in RANGES if one[1] - one[0] < 2**17]
EPS = default_eps()
examples = settings(max_examples=150, deadline=None)


def float32(low, high):
    return st.floats(low, high, width=32, allow_nan=False)


values = st.one_of(float32(-(2.0**40), 2.0**40), float32(-4, 4), st.just(0.0))
intervals = st.tuples(values, values).map(sorted)
code_ranges = st.sampled_from(RANGES)


def choose(interval, code_range, *, symmetric, **options):
    low, high = (torch.tensor(value, dtype=torch.float32) for value in interval)
    scale, zero_point = choose_qparams(
        low, high, quant_min=code_range[0], quant_max=code_range[1], symmetric=symmetric, **options
    )
    return float(scale), int(zero_point)


def reals(scale, zero_point, code_range):
    """The smallest and largest real value that has a code, exactly."""
    return tuple(scale * (code - zero_point) for code in code_range)


@examples
@given(intervals, code_ranges, st.booleans())
def test_zero_is_a_code_exactly(interval, code_range, symmetric):
    _scale, zero_point = choose(interval, code_range, symmetric=symmetric)
    assert code_range[0] <= zero_point <= code_range[1]


@examples
@given(intervals, st.sampled_from(SMALL_RANGES))
def test_affine_codes_cover_the_range_up_to_half_a_step(interval, code_range):
    scale, zero_point = choose(interval, code_range, symmetric=False)
    low, high = reals(scale, zero_point, code_range)
    slack = scale * (0.5 + 2**-6)  # half a step, and float32's rounding of up to 65536 codes
    assert low - slack <= min(interval[0], 0)
    assert max(interval[1], 0) <= high + slack


@examples
@given(intervals, st.sampled_from(SMALL_RANGES))
def test_symmetric_codes_cover_the_range_up_to_a_step(interval, code_range):
    # With an even number of codes the positive side is one short, as in every int8 scheme: half a step, and rounding.
    scale, zero_point = choose(interval, code_range, symmetric=True)
    low, high = reals(scale, zero_point, code_range)
    slack = scale * (0.5 + 2**-6)
    assert low - slack <= min(interval[0], 0)
    assert max(interval[1], 0) <= high + slack


@examples
@given(intervals, code_ranges, st.booleans(), st.sampled_from([None, 2.0**-12, 1.0]))
def test_one_range_is_chosen_for_as_many_are_to_the_bit(interval, code_range, symmetric, eps):
    if any(interval):  # several ranges lend each other a scale where one has no width
        low, high = (torch.tensor([value], dtype=torch.float32) for value in interval)
        ends = {"quant_min": code_range[0], "quant_max": code_range[1]}
        many = choose_qparams(low, high, symmetric=symmetric, eps=eps, **ends)
        assert choose(interval, code_range, symmetric=symmetric, eps=eps) == (float(many[0]), int(many[1]))


@examples
@given(intervals, code_ranges)
def test_symmetric_zero_point_depends_on_the_codes_alone(interval, code_range):
    _scale, zero_point = choose(interval, code_range, symmetric=True)
    assert zero_point == symmetric_zero_point(*code_range)


@pytest.mark.parametrize(
    ("code_range", "zero_point"),
    [
        ((-128, 127), 0),
        ((-127, 127), 0),
        ((-8, 7), 0),
        ((0, 255), 128),
        ((0, 127), 64),
        ((0, 254), 127),
        ((0, 65535), 32768),
    ],
)
def test_symmetric_zero_points(code_range, zero_point):
    assert symmetric_zero_point(*code_range) == zero_point


@examples
@given(intervals, code_ranges, st.booleans(), st.sampled_from([None, 2.0**-12, 1e-3, 1.0]))
def test_scale_is_never_below_eps(interval, code_range, symmetric, eps):
    scale, _ = choose(interval, code_range, symmetric=symmetric, eps=eps)
    floor = EPS if eps is None else eps
    assert scale >= float(torch.tensor(floor, dtype=torch.float32))
    assert math.isfinite(scale)


@examples
@given(intervals, intervals, st.sampled_from(SMALL_RANGES), st.booleans())
def test_a_wider_range_never_has_a_smaller_scale(one, other, code_range, symmetric):
    wide = (min(one[0], other[0]), max(one[1], other[1]))
    narrow, _ = choose(one, code_range, symmetric=symmetric)
    wider, _ = choose(wide, code_range, symmetric=symmetric)
    if any(one):  # a range of zero width has any scale
        assert wider >= narrow


@examples
@given(intervals, code_ranges, st.booleans(), st.sampled_from([2.0**-20, 2.0, 2.0**20]))
def test_scaling_data_by_a_power_of_two_scales_the_scale(interval, code_range, symmetric, factor):
    scale, zero_point = choose(interval, code_range, symmetric=symmetric, eps=0.0)
    stretched = [value * factor for value in interval]
    again, zero_again = choose(stretched, code_range, symmetric=symmetric, eps=0.0)
    if all(value == 0 or abs(value * factor) > 2.0**-80 for value in interval) and any(interval):
        assert again == scale * factor
        assert zero_again == zero_point


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("code_range", RANGES)
def test_zero_width_takes_scale_one(symmetric, code_range):
    assert choose((0.0, 0.0), code_range, symmetric=symmetric)[0] == 1.0


@pytest.mark.parametrize("symmetric", [False, True])
def test_channels_of_zeros_take_the_largest_scale_of_the_others(symmetric):
    low, high = torch.tensor([0.0, -1.0, 0.0, -4.0]), torch.tensor([0.0, 2.0, 0.0, 0.5])
    scale, zero_point = choose_qparams(low, high, quant_min=-127, quant_max=127, symmetric=symmetric)
    assert scale[0] == scale[2] == scale.max() == scale[3]
    assert scale[1] < scale[3]
    assert scale.dtype is torch.float32
    assert zero_point.dtype is torch.int32


@pytest.mark.parametrize("interval", [(0.5, 3.0), (-3.0, -0.5)])
def test_a_range_beside_zero_is_widened_to_hold_it(interval):
    scale, zero_point = choose(interval, (-128, 127), symmetric=False)
    assert scale == pytest.approx(3 / 255, rel=1e-6)
    assert zero_point == (-128 if interval[0] > 0 else 127)


def test_the_zero_point_of_int32_does_not_overflow():
    # -1e6 / (1e6 / 2**32) is 2**32 codes from the smallest one, just past the largest.
    low, high = INTEGER_RANGES[torch.int32]
    assert choose((-1e6, 0.0), (low, high), symmetric=False)[1] == high
    assert choose((0.0, 1e6), (low, high), symmetric=False)[1] == low


def test_a_span_beyond_float32_has_a_scale():
    largest = torch.finfo(torch.float32).max
    low, high = torch.tensor([-largest, -1.0, -largest]), torch.tensor([largest, 1.0, 1.0])
    for lows, highs in ((low, high), (low[0], high[0])):  # tensors and one range have code of their own
        scale, zero_point = choose_qparams(lows, highs, quant_min=-128, quant_max=127, symmetric=False)
        assert torch.allclose(scale.double(), (highs.double() - lows.double()) / 255, rtol=1e-6)
        assert zero_point.reshape(-1)[0] in (-1, 0)


def test_bfloat16_ranges_are_computed_in_float32():
    interval = torch.tensor([-1.0, 2.546875], dtype=torch.bfloat16)
    scale, _ = choose_qparams(*interval, quant_min=-128, quant_max=127, symmetric=False)
    assert scale.dtype is torch.float32
    assert float(scale) == pytest.approx(3.546875 / 255, rel=1e-6)


# What the docstrings name as exceptions is left out: ranges of zero width, and the zero point of a symmetric scheme
# over codes that are given and not negative.
PEER_CASES = [
    (dtype, code_range, scheme)
    for dtype, ranges in {
        torch.int8: [None, (-128, 127), (-127, 127), (-8, 7), (0, 127)],
        torch.uint8: [None, (0, 255), (0, 127)],
        torch.int16: [(-32768, 32767), (-32767, 32767)],
        torch.uint16: [(0, 65535)],
        torch.int32: [(-(2**31), 2**31 - 1)],
    }.items()
    for code_range in ranges
    for scheme in (torch.per_tensor_affine, torch.per_tensor_symmetric)
    if not (
        scheme is torch.per_tensor_symmetric and code_range is not None and code_range[0] == 0 and dtype != torch.uint16
    )
    and not (scheme is torch.per_tensor_affine and dtype is torch.int32)  # theirs overflows there
]


def ranges_of(code_range):
    return {} if code_range is None else {"quant_min": code_range[0], "quant_max": code_range[1]}


def spread_batches():
    """Data of many magnitudes: both signs, one sign, tiny, huge."""
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(40, 5, 3, generator=generator)
    shifts = torch.randn(40, 1, 1, generator=generator) * 2
    magnitudes = torch.pow(10.0, torch.linspace(-9, 9, 40)).reshape(40, 1, 1)
    return (noise + shifts) * magnitudes


@pytest.mark.parametrize(("dtype", "code_range", "scheme"), PEER_CASES, ids=str)
def test_per_tensor_qparams_are_those_of_torch_ao_to_the_bit(dtype, code_range, scheme):
    for batch in spread_batches():
        ours = MinMaxObserver(dtype=dtype, qscheme=scheme, **ranges_of(code_range))
        theirs = torch_observer.MinMaxObserver(dtype=dtype, qscheme=scheme, **ranges_of(code_range))
        for observer in (ours, theirs):
            observer(batch)
        for one, other in zip(ours.calculate_qparams(), theirs.calculate_qparams(), strict=True):
            assert torch.equal(one, other.to(one.dtype)), (one, other)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("scheme", [torch.per_channel_affine, torch.per_channel_symmetric])
@pytest.mark.parametrize(
    ("dtype", "code_range"), [(torch.int8, (-127, 127)), (torch.uint8, None), (torch.int16, (-32768, 32767))]
)
def test_per_channel_qparams_are_those_of_torch_ao_to_the_bit(dtype, code_range, scheme, axis):
    batch = spread_batches()
    ours = PerChannelMinMaxObserver(dtype=dtype, qscheme=scheme, ch_axis=axis, **ranges_of(code_range))
    theirs = torch_observer.PerChannelMinMaxObserver(dtype=dtype, qscheme=scheme, ch_axis=axis, **ranges_of(code_range))
    for observer in (ours, theirs):
        observer(batch)
        observer(-batch)
    for one, other in zip(ours.calculate_qparams(), theirs.calculate_qparams(), strict=True):
        assert one.numel() == batch.shape[axis]
        assert torch.equal(one, other.to(one.dtype))
