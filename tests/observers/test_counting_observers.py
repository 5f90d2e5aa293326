"""Percentile, MSE and recording observers, and what observers need not look at again."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from observed import ends, observe
from torch import nn

from quantizer_sdk import InvalidSpecError, calibrate, convert_pt2e, prepare_pt2e
from quantizer_sdk.backends.x86 import X86Quantizer, get_default_x86_quantization_config
from quantizer_sdk.observers import (
    HistogramObserver,
    MinMaxObserver,
    MSEObserver,
    PercentileObserver,
    RecordingObserver,
)
from quantizer_sdk.observers.counting import CountingObserver

SYMMETRIC, AFFINE = torch.per_tensor_symmetric, torch.per_tensor_affine


def values(count, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, generator=generator) * 10.0 ** float(torch.randint(-3, 3, (1,), generator=generator))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3000), st.integers(0, 10**6), st.floats(50.1, 100.0), st.sampled_from([AFFINE, SYMMETRIC]))
def test_a_percentile_range_holds_its_share_to_within_a_bin(count, seed, percentile, scheme):
    x = values(count, seed)
    observer = observe(PercentileObserver(percentile=percentile, qscheme=scheme), x)
    low, high = ends(observer)
    width, slack = float(observer.bin_width), 1e-9 * count
    assert (x.min() <= low <= high <= x.max()) if scheme is AFFINE else -low == high <= x.abs().max()
    kept = count * percentile / 100
    within = ((x >= low - width) & (x <= high + width)).sum()
    inside = ((x > low + width) & (x < high - width)).sum()
    assert inside <= kept + slack
    assert within >= kept - slack
    if scheme is AFFINE:
        assert (x < low - width).sum() <= (count - kept) / 2 + slack
        assert (x > high + width).sum() <= (count - kept) / 2 + slack


def test_all_percent_are_the_whole_range_and_zeros_are_a_range_of_nothing():
    x = values(500, 1)
    assert ends(observe(PercentileObserver(percentile=100.0), x)) == (float(x.min()), float(x.max()))
    assert ends(observe(PercentileObserver(), torch.zeros(3))) == (0.0, 0.0)


@pytest.mark.parametrize("scheme", [AFFINE, SYMMETRIC])
@pytest.mark.parametrize("kind", [HistogramObserver, MSEObserver, PercentileObserver])
def test_values_at_the_ends_of_float32_have_a_range(kind, scheme):
    largest = torch.finfo(torch.float32).max
    for x in (torch.full((20,), largest), torch.tensor([-largest, 0.0, largest]), torch.tensor([-largest, 1.0])):
        observer = kind(dtype=torch.int8, qscheme=scheme)
        observer(x)
        low, high = observer.observed_range()
        assert -torch.inf < low <= high < torch.inf
        scale, _zero_point = observer.calculate_qparams()
        assert 0 < scale < torch.inf


@pytest.mark.parametrize("kind", [HistogramObserver, MSEObserver])
@pytest.mark.parametrize("factor", [2.0**-90, 2.0**100])
def test_squares_of_errors_neither_vanish_nor_overflow(kind, factor):
    x = torch.cat([values(5000, 3), values(5000, 3).abs().max()[None] * 8])
    near, far = (observe(kind(qscheme=SYMMETRIC, eps=0.0), data) for data in (x, x * factor))
    assert ends(far) == tuple(end * factor for end in ends(near))


def test_percentile_leaves_outliers_out():
    x = torch.cat([torch.linspace(-1, 1, 100_000), torch.tensor([50.0, -80.0])])
    low, high = ends(observe(PercentileObserver(percentile=99.99), x))
    assert -1.1 < low < -0.95
    assert 0.95 < high < 1.1


@pytest.mark.parametrize("percentile", [50, 0, -1, 100.1])
def test_a_percentile_that_is_none_is_refused(percentile):
    with pytest.raises(InvalidSpecError, match=f"percentile is {percentile}"):
        PercentileObserver(percentile=percentile)


def expected_error(observer, bounds, norm):
    """What a range costs, by the definition: over the centres of the bins."""
    centres, counts = observer.centres(0)
    scale, zero_point = observer._choose(*(torch.tensor(float(end)) for end in bounds))
    codes = torch.clamp(torch.round(centres / scale) + zero_point, observer.quant_min, observer.quant_max)
    return float((((codes - zero_point) * scale - centres).abs().double() ** norm * counts).sum())


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1.0, 2.0, 3.0]), st.sampled_from([AFFINE, SYMMETRIC]), st.booleans())
def test_refining_never_makes_a_range_worse(seed, norm, scheme, one_sided):
    x = values(2000, seed) ** 3
    fields = {"dtype": torch.int8, "quant_min": -8, "quant_max": 7, "qscheme": scheme}
    observer = observe(MSEObserver(norm=norm, **fields), x.abs() if one_sided else x)
    coarse = HistogramObserver.range_of(observer, 0)
    fine = observer.range_of(0)
    before, after = (expected_error(observer, [float(end) for end in bounds], norm) for bounds in (coarse, fine))
    assert after <= before * (1 + 1e-5)


def test_refining_finds_what_trying_every_range_finds():
    x = values(20_000, 5) ** 3
    observer = observe(MSEObserver(quant_min=-8, quant_max=7, qscheme=SYMMETRIC), x)
    best = min(expected_error(observer, [-end, end], 2) for end in torch.linspace(0.01, 1, 2000) * x.abs().max())
    assert expected_error(observer, ends(observer), 2) <= best * 1.01
    assert expected_error(observer, ends(observe(HistogramObserver(quant_min=-8, quant_max=7), x)), 2) > best


def test_a_larger_norm_clips_less():
    x = values(20_000, 7) ** 3
    ranges = [
        ends(observe(MSEObserver(norm=norm, quant_min=-8, quant_max=7, qscheme=SYMMETRIC), x)) for norm in (1, 2, 4)
    ]
    assert ranges[0][1] < ranges[1][1] < ranges[2][1]


@pytest.mark.parametrize("norm", [0, -2.0, float("nan")])
def test_a_norm_that_is_none_is_refused(norm):
    with pytest.raises(InvalidSpecError, match="norm is"):
        MSEObserver(norm=norm)


def test_recording_keeps_every_tensor_as_it_was_then():
    x, y = torch.randn(2, 3), torch.randn(4, 3).to(torch.bfloat16)
    expected = [x.clone(), y.clone()]
    observer = observe(RecordingObserver(), x, y)
    x.zero_()
    other = RecordingObserver()
    other.load_state_dict(observer.state_dict())
    another = copy.deepcopy(observer)
    observe(another, torch.ones(1))
    for kept in (observer.values, other.values, another.values[:2]):
        assert [value.dtype for value in kept] == [torch.float32, torch.bfloat16]
        assert all(torch.equal(a, b) for a, b in zip(kept, expected, strict=True))
    assert len(observer.values) == 2
    assert ends(observer) == ends(other)


@pytest.mark.parametrize("kind", [HistogramObserver, PercentileObserver])
@pytest.mark.parametrize("size", [1, 7, 2**17 - 1, 2**17, 2**17 + 1, 300_000])
def test_every_value_is_counted_in_its_bin_however_many_there_are(kind, size):
    x = torch.randn(size, generator=torch.Generator().manual_seed(size))
    observer = observe(kind(bins=256), x)
    index = torch.floor(x.double() / observer.bin_width.double()) + 128
    exact = torch.bincount(index.clamp(0, 255).to(torch.int64), minlength=256)
    assert observer.histogram.sum() == size
    # Float32 adds the middle bin before it cuts off: what lies within 2^-16 of a bin below an edge counts above it.
    assert (observer.histogram[0].cumsum(0) - exact.cumsum(0)).abs().max() <= 2 + size * 2e-5


# What need not be looked at again


class Counted(MinMaxObserver):
    """Counts how often it looks."""

    looks = 0

    def observe(self, x):
        Counted.looks += 1
        super().observe(x)


@pytest.fixture
def looks():
    Counted.looks = 0
    return lambda: Counted.looks


def test_a_parameter_is_looked_at_again_only_when_it_has_changed(looks):
    weight, observer = nn.Parameter(torch.ones(3)), Counted()
    observe(observer, weight, weight)
    assert looks() == 1
    with torch.no_grad():
        weight.mul_(5)
    observe(observer, weight)
    assert looks() == 2
    assert ends(observer) == (1.0, 5.0)
    observe(observer, nn.Parameter(torch.full((3,), 9.0)))
    assert ends(observer) == (1.0, 9.0)
    observe(copy.deepcopy(observer), weight)
    empty = Counted()
    observer.load_state_dict(empty.state_dict())
    observe(observer, weight, weight)
    assert ends(observer) == (5.0, 5.0)


def test_the_same_input_twice_counts_twice(looks):
    x = torch.randn(5)
    observe(Counted(), x, x)
    assert looks() == 2


class Moves(nn.Module):
    """Values of one tensor in other places, among ops that make new ones."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x):
        x = self.layer(x.view(2, 8).transpose(0, 1).reshape(2, 8))
        return self.layer(torch.cat([x, x.flip(0)])[:2].reshape(2, 8))


def test_values_that_only_move_are_counted_once():
    x = torch.randn(4, 4)
    quantizer = X86Quantizer("onnxruntime").set_global(get_default_x86_quantization_config())
    prepared = prepare_pt2e(torch.export.export(Moves().eval(), (x,)).module(), quantizer)
    calibrate(prepared, [x])
    calls = [node for node in prepared.graph.nodes if node.op == "call_module" and node.kwargs.get("seen")]
    assert {str(call.args[0].target) for call in calls} >= {"aten.slice.Tensor", "aten.transpose.int"}
    counts = [int(m.histogram.sum()) for m in prepared.modules() if isinstance(m, CountingObserver)]
    assert counts[0] == 16
    assert (convert_pt2e(prepared)(x) - prepared(x)).abs().max() < 0.05
