"""What observers keep of the data that they see, and the qparams that they make of it."""

import copy
import math

import pytest
import torch
import torchao.quantization.pt2e as torchao_pt2e
from observed import ends, observe
from quantizers import INT8, WEIGHT8, SmallTable
from torch import nn

from quantizer_sdk import (
    CalibrationError,
    DerivedQuantizationSpec,
    FixedQParamsQuantizationSpec,
    InvalidSpecError,
    NonFiniteError,
    QuantizationConfig,
    QuantizationSpec,
    SharedQuantizationSpec,
    UncalibratedError,
    UnsupportedError,
    calibrate,
    convert_pt2e,
    prepare_pt2e,
)
from quantizer_sdk.observers import (
    FixedQParamsObserver,
    HistogramObserver,
    MinMaxObserver,
    MovingAverageMinMaxObserver,
    MovingAveragePerChannelMinMaxObserver,
    MSEObserver,
    PercentileObserver,
    PerChannelMinMaxObserver,
    RecordingObserver,
)
from quantizer_sdk.observers.create import create_observer, is_observer
from quantizer_sdk.qparams import choose_qparams

COUNTING = [HistogramObserver, MSEObserver, PercentileObserver]
PER_TENSOR = [MinMaxObserver, MovingAverageMinMaxObserver, RecordingObserver, *COUNTING]
PER_CHANNEL = [PerChannelMinMaxObserver, MovingAveragePerChannelMinMaxObserver]
ALL = [*PER_TENSOR, *PER_CHANNEL]


# What every observer does


@pytest.mark.parametrize("kind", ALL)
def test_it_passes_its_input_through_untouched(kind):
    x = torch.randn(4, 3)
    before = x.clone()
    assert kind()(x) is x
    assert torch.equal(x, before)


@pytest.mark.parametrize("kind", ALL)
def test_before_any_data_it_has_no_qparams(kind):
    observer = kind()
    assert not observer.calibrated
    with pytest.raises(UncalibratedError, match=f"{kind.__name__} has seen no data"):
        observer.calculate_qparams()


@pytest.mark.parametrize("kind", ALL)
def test_qparams_have_one_element_a_scale_in_float32_and_int32(kind):
    scale, zero_point = observe(kind(), torch.randn(6, 3)).calculate_qparams()
    assert scale.shape == zero_point.shape == ((6,) if kind in PER_CHANNEL else (1,))
    assert scale.dtype is torch.float32
    assert zero_point.dtype is torch.int32


@pytest.mark.parametrize("kind", ALL)
def test_it_takes_bfloat16_and_keeps_float32(kind):
    x = torch.randn(4, 8).to(torch.bfloat16)
    narrow, wide = observe(kind(), x), observe(kind(), x.float())
    for one, other in zip(narrow.calculate_qparams(), wide.calculate_qparams(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("kind", ALL)
def test_integers_have_no_range_to_calibrate(kind):
    with pytest.raises(CalibrationError, match=r"given torch\.int64"):
        kind()(torch.arange(3))


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_refused_and_not_kept(kind, bad):
    observer = observe(kind(), torch.tensor([[1.0, -2.0]]))
    before = observer.calculate_qparams()
    with pytest.raises(NonFiniteError, match="1 NaN or infinite of 2 values"):
        observer(torch.tensor([[bad, 5.0]]))
    assert all(map(torch.equal, before, observer.calculate_qparams()))


@pytest.mark.parametrize("kind", ALL)
def test_saved_and_loaded_it_gives_the_same_qparams_and_goes_on_alike(kind):
    observer = observe(kind(), torch.randn(4, 3), torch.randn(4, 3) * 3)
    loaded = kind()
    loaded.load_state_dict(observer.state_dict())
    for one in (observer, loaded):
        assert one.calibrated
    assert all(map(torch.equal, observer.calculate_qparams(), loaded.calculate_qparams()))
    more = torch.randn(4, 3) * 5
    assert all(map(torch.equal, observe(observer, more).calculate_qparams(), observe(loaded, more).calculate_qparams()))


@pytest.mark.parametrize("kind", ALL)
def test_a_state_saved_before_calibration_loads_into_a_calibrated_one_and_clears_it(kind):
    empty, full = kind(), observe(kind(), torch.randn(4, 3))
    full.load_state_dict(empty.state_dict())
    assert not full.calibrated
    assert ends(observe(full, torch.tensor([[2.0]]))) == ends(observe(empty, torch.tensor([[2.0]])))


@pytest.mark.parametrize("kind", PER_CHANNEL)
def test_a_state_of_another_number_of_channels_loads(kind):
    saved = observe(kind(), torch.randn(7, 2))
    loaded = observe(kind(), torch.randn(3, 2))
    loaded.load_state_dict(saved.state_dict())
    assert ends(loaded) == ends(saved)


@pytest.mark.parametrize("kind", ALL)
def test_a_copy_goes_its_own_way(kind):
    observer = observe(kind(), torch.tensor([[-1.0, 1.0]]))
    before = ends(observer)
    copied = copy.deepcopy(observer)
    observe(copied, torch.tensor([[-9.0, 9.0]]))
    assert ends(observer) == before
    assert ends(copied) != before


@pytest.mark.parametrize("kind", ALL)
def test_batches_of_other_sizes_are_fine(kind):
    observer = observe(kind(), torch.randn(4, 1, 5), torch.randn(4, 6))
    assert observer.calibrated


def test_eps_is_the_smallest_scale():
    observer = observe(MinMaxObserver(eps=2**-12), torch.tensor([-1e-6, 1e-6]))
    assert observer.calculate_qparams()[0].item() == 2**-12


# Min-max


def test_min_max_keeps_the_widest_range_of_all_batches():
    observer = observe(MinMaxObserver(), torch.tensor([-1.0, 2.0]), torch.tensor([0.5, 3.0]), torch.tensor([-0.5]))
    assert ends(observer) == (-1.0, 3.0)


def test_min_max_does_not_depend_on_the_order_of_batches():
    batches = list(torch.randn(6, 10))
    assert ends(observe(MinMaxObserver(), *batches)) == ends(observe(MinMaxObserver(), *reversed(batches)))


@pytest.mark.parametrize("kind", [MinMaxObserver, PerChannelMinMaxObserver])
@pytest.mark.parametrize("axis", [0, 1, 2, 3])
@pytest.mark.parametrize("scheme", [torch.per_channel_affine, torch.per_channel_symmetric])
def test_any_axis_can_hold_the_channels_whatever_the_name_of_the_class(kind, axis, scheme):
    batches = torch.randn(2, 2, 3, 4, 5)
    observer = observe(kind(qscheme=scheme, ch_axis=axis), *batches)
    others = tuple(other for other in range(5) if other != axis + 1)
    assert torch.equal(observer.min_val, batches.amin(others))
    assert torch.equal(observer.max_val, batches.amax(others))


def test_per_channel_takes_axis_0_where_none_is_given():
    assert PerChannelMinMaxObserver().ch_axis == 0
    assert PerChannelMinMaxObserver().qscheme is torch.per_channel_affine
    assert MinMaxObserver(ch_axis=2).ch_axis is None  # per tensor: there is no channel axis


@pytest.mark.parametrize("kind", PER_CHANNEL)
def test_another_number_of_channels_names_both(kind):
    observer = observe(kind(ch_axis=1), torch.randn(2, 3))
    with pytest.raises(CalibrationError, match=r"given 4 channels, shape \(2, 4\), after 3 channels before"):
        observer(torch.randn(2, 4))


@pytest.mark.parametrize("kind", PER_CHANNEL)
def test_a_tensor_without_the_channel_axis_is_named(kind):
    with pytest.raises(CalibrationError, match=r"given shape \(2, 3\), but PerAxis\(axis=2\) names axis 2"):
        kind(ch_axis=2)(torch.randn(2, 3))


# Moving average


def test_moving_average_starts_at_the_first_batch_and_moves_by_its_constant():
    observer = observe(MovingAverageMinMaxObserver(averaging_constant=0.25), torch.tensor([-1.0, 2.0]))
    assert ends(observer) == (-1.0, 2.0)
    observe(observer, torch.tensor([-5.0, 6.0]))
    assert ends(observer) == (-2.0, 3.0)


def test_moving_average_per_channel_averages_each_channel():
    observer = MovingAveragePerChannelMinMaxObserver(averaging_constant=0.5)
    observe(observer, torch.tensor([[0.0, 2.0], [-4.0, 0.0]]), torch.tensor([[0.0, 4.0], [-8.0, 2.0]]))
    assert ends(observer) == ([0.0, -6.0], [3.0, 1.0])


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (MovingAverageMinMaxObserver, torchao_pt2e.MovingAverageMinMaxObserver),
        (MovingAveragePerChannelMinMaxObserver, torchao_pt2e.MovingAveragePerChannelMinMaxObserver),
    ],
)
def test_moving_average_is_that_of_torchao_to_the_bit(ours, theirs):
    batches = torch.randn(20, 4, 6)
    scheme = torch.per_channel_affine if ours in PER_CHANNEL else torch.per_tensor_affine
    one = observe(ours(dtype=torch.int8, qscheme=scheme), *batches)
    other = observe(theirs(dtype=torch.int8, qscheme=scheme, quant_min=-128, quant_max=127), *batches)
    assert torch.equal(one.min_val, other.min_val)
    assert torch.equal(one.max_val, other.max_val)


@pytest.mark.parametrize("constant", [0, -0.1, 1.5, math.nan])
def test_averaging_constant_must_lie_above_0_and_up_to_1(constant):
    with pytest.raises(InvalidSpecError, match="averaging_constant"):
        MovingAverageMinMaxObserver(averaging_constant=constant)


# Histogram

SYMMETRIC, AFFINE = torch.per_tensor_symmetric, torch.per_tensor_affine


def samples():
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(3000, generator=generator)
    uniform = torch.rand(3000, generator=generator)
    return {
        "normal": noise,
        "shifted": noise + 2,
        "relu": noise.relu(),
        "laplace": torch.sign(noise) * -uniform.log(),
        "uniform": uniform * 3 - 1,
        "one-sided": noise.exp(),
        "outliers": torch.cat([noise, torch.tensor([40.0, -30.0])]),
        "two peaks": torch.cat([noise * 0.1 - 3, noise * 0.1 + 1]),
    }


def square_errors(x, scale, zero_point, code_range):
    """Mean square error of quantizing `x`, in float64, for each of several qparams."""
    x, step, zero = x.double(), scale.double()[:, None], zero_point.double()[:, None]
    codes = torch.clamp(torch.round(x / step) + zero, *code_range)
    return torch.square((codes - zero) * step - x).mean(1)


def least_error(x, code_range, scheme):
    """The error of the best range there is, by trying many on the raw data."""
    kept = torch.linspace(1, 0.005, 300 if scheme is SYMMETRIC else 40)
    low, high = x.min() * kept, x.max() * kept
    if scheme is AFFINE:
        low, high = low.repeat_interleave(len(kept)), high.repeat(len(kept))
    scale, zero_point = choose_qparams(
        low, high, quant_min=code_range[0], quant_max=code_range[1], symmetric=scheme is SYMMETRIC
    )
    return float(square_errors(x, scale, zero_point, code_range).min())


@pytest.mark.parametrize("scheme", [AFFINE, SYMMETRIC], ids=["affine", "symmetric"])
@pytest.mark.parametrize("code_range", [(-128, 127), (-8, 7)], ids=["8 bits", "4 bits"])
@pytest.mark.parametrize("name", samples())
def test_the_histogram_range_is_about_the_best_there_is(name, code_range, scheme):
    x = samples()[name]
    fields = {"dtype": torch.int8, "quant_min": code_range[0], "quant_max": code_range[1], "qscheme": scheme}
    errors = {
        kind: float(square_errors(x, *observe(kind(**fields), x).calculate_qparams(), code_range))
        for kind in (HistogramObserver, MinMaxObserver)
    }
    # Bins are 1/2048 of the range wide: at 8 bits their centres estimate an error to a few percent.
    assert errors[HistogramObserver] <= errors[MinMaxObserver] * 1.02
    assert errors[HistogramObserver] <= least_error(x, code_range, scheme) * 1.06


def test_the_histogram_clips_outliers_that_cost_more_than_they_gain():
    x = samples()["outliers"]
    low, high = ends(observe(HistogramObserver(quant_min=-8, quant_max=7), x))
    assert -5 > low > -30
    assert 5 < high < 40


def test_histogram_counts_every_value_once():
    batches = [torch.randn(50) * 10.0**power for power in (-3, 0, 2, -1, 3)]
    observer = HistogramObserver(bins=64)
    for index, batch in enumerate(batches):
        observe(observer, batch)
        assert observer.histogram.sum() == 50 * (index + 1)
        assert torch.equal(observer.histogram, observer.histogram.round())


def test_growing_the_histogram_merges_pairs_of_bins():
    # Four values that fill four neighbouring bins, then one far out: each doubling adds neighbours up.
    observer = observe(HistogramObserver(bins=8), torch.tensor([0.1, 0.3, 0.6, 0.9, -0.9]))
    assert float(observer.bin_width) == 0.25
    assert observer.histogram.tolist() == [[1, 0, 0, 0, 1, 1, 1, 1]]
    observe(observer, torch.tensor([1.9]))
    assert float(observer.bin_width) == 0.5
    assert observer.histogram.tolist() == [[0, 0, 1, 0, 2, 2, 0, 1]]


def test_the_order_of_batches_moves_no_value_by_more_than_one_bin():
    batches = [torch.randn(200) * scale for scale in (0.01, 4.0, 1.0, 0.3, 30.0)]
    one, other = (observe(HistogramObserver(bins=256), *order) for order in (batches, batches[::-1]))
    assert torch.equal(one.bin_width, other.bin_width)
    assert ends_of_data(one) == ends_of_data(other)
    first, second = one.histogram[0].cumsum(0), other.histogram[0].cumsum(0)
    assert bool((second[1:] >= first[:-1]).all())
    assert bool((first[1:] >= second[:-1]).all())


def ends_of_data(observer):
    return float(observer.min_val), float(observer.max_val)


@pytest.mark.parametrize("scheme", [AFFINE, SYMMETRIC], ids=["affine", "symmetric"])
@pytest.mark.parametrize("value", [3.4e38, -3.4e38, 1e30, 1.0, -2.5, 1e-6, 1e-30, -1e-44])
def test_a_single_value_of_any_size_is_represented(value, scheme):
    scale, zero_point = observe(HistogramObserver(qscheme=scheme), torch.tensor([value])).calculate_qparams()
    scale, zero_point = scale.double(), zero_point.double()
    code = torch.clamp(torch.round(value / scale) + zero_point, -128, 127)
    assert math.isfinite(scale)
    assert float(abs((code - zero_point) * scale - value)) <= float(scale) * 0.51


def test_a_histogram_of_zeros_has_scale_1_and_goes_on():
    observer = observe(HistogramObserver(), torch.zeros(5))
    assert observer.calculate_qparams()[0].item() == 1.0
    observe(observer, torch.rand(1000))
    assert observer.histogram.sum() == 1005
    assert observer.calculate_qparams()[0].item() == pytest.approx(1 / 255, rel=0.05)


def test_histogram_grows_from_tiny_to_huge():
    observer = observe(HistogramObserver(), torch.tensor([1e-30]), torch.tensor([-1e30]))
    assert observer.histogram.sum() == 2
    assert observer.calculate_qparams()[0].item() == pytest.approx(1e30 / 255, rel=0.05)


@pytest.mark.parametrize("bins", [0, 2, 6, 1023])
def test_bins_must_be_a_multiple_of_4(bins):
    with pytest.raises(InvalidSpecError, match=f"bins is {bins}"):
        HistogramObserver(bins=bins)


@pytest.mark.parametrize("scheme", [torch.per_channel_affine, torch.per_channel_symmetric])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_histogram_per_channel_is_one_for_each_channel(scheme, axis):
    batches = [torch.randn(4, 3, 5) * 10.0 ** torch.arange(4).reshape(4, 1, 1) for _ in range(3)]
    batches = [batch.movedim(0, axis) for batch in batches]
    together = observe(HistogramObserver(qscheme=scheme, ch_axis=axis), *batches)
    per_tensor = torch.per_tensor_affine if scheme is torch.per_channel_affine else torch.per_tensor_symmetric
    for channel in range(batches[0].shape[axis]):
        alone = observe(HistogramObserver(qscheme=per_tensor), *(batch.select(axis, channel) for batch in batches))
        assert torch.equal(alone.histogram[0], together.histogram[channel])
        for one, other in zip(alone.calculate_qparams(), together.calculate_qparams(), strict=True):
            assert one[0] == other[channel]


# Fixed and derived


def test_fixed_qparams_stay_whatever_it_sees():
    observer = FixedQParamsObserver(1 / 256, -128, dtype=torch.int8)
    assert observer.calibrated
    observe(observer, torch.randn(5) * 100)
    scale, zero_point = observer.calculate_qparams()
    assert (scale.tolist(), zero_point.tolist()) == ([1 / 256], [-128])
    assert ends(observer) == ([0.0], [255 / 256])


def product(sources):
    (one, _), (other, _) = [source.calculate_qparams() for source in sources]
    return one * other, torch.zeros_like(other)


def derived(sources, **fields):
    spec = DerivedQuantizationSpec([object()], product, torch.int32, **fields)
    return create_observer(spec, "here", sources)


def test_derived_qparams_follow_their_sources():
    activation, weight = MinMaxObserver(), PerChannelMinMaxObserver()
    bias = derived([activation, weight], qscheme=torch.per_channel_symmetric, ch_axis=0)
    assert not bias.calibrated
    observe(activation, torch.randn(9))
    assert not bias.calibrated
    observe(weight, torch.randn(3, 2))
    assert bias.calibrated
    scale, zero_point = bias.calculate_qparams()
    assert torch.equal(scale, activation.calculate_qparams()[0] * weight.calculate_qparams()[0])
    assert zero_point.tolist() == [0, 0, 0]
    observe(activation, torch.tensor([50.0]))
    assert bias.calculate_qparams()[0][0] > scale[0]


def test_derived_state_is_that_of_its_sources():
    sources = [MinMaxObserver(), MinMaxObserver()]
    assert derived(sources).state_dict() == {}


def test_copied_together_a_derived_observer_follows_the_copied_sources():
    model = nn.ModuleList([observe(MinMaxObserver(), torch.ones(1)), observe(MinMaxObserver(), torch.ones(1))])
    model.append(derived(list(model)))
    copied = copy.deepcopy(model)
    before = model[2].calculate_qparams()[0]
    observe(copied[0], torch.tensor([128.0]))
    assert torch.equal(model[2].calculate_qparams()[0], before)
    assert torch.equal(copied[2].calculate_qparams()[0], before * 128)


# Constructors


def test_factories_are_equal_where_class_and_arguments_are():
    factory = HistogramObserver.with_args(bins=64, eps=0.5)
    assert factory == HistogramObserver.with_args(eps=0.5, bins=64)
    assert hash(factory) == hash(HistogramObserver.with_args(eps=0.5, bins=64))
    assert factory != HistogramObserver.with_args(bins=64)
    assert factory != MinMaxObserver.with_args(bins=64, eps=0.5)
    assert factory != HistogramObserver
    assert QuantizationSpec(torch.int8, factory) == QuantizationSpec(
        torch.int8, HistogramObserver.with_args(eps=0.5).with_args(bins=64)
    )


def test_the_argument_given_last_wins():
    observer = MinMaxObserver.with_args(eps=1.0, quant_min=-8).with_args(eps=2.0)(quant_max=7)
    assert (observer.eps, observer.quant_min, observer.quant_max) == (2.0, -8, 7)


def test_factories_say_what_they_make():
    assert repr(HistogramObserver.with_args(bins=64)) == "HistogramObserver.with_args(bins=64)"


@pytest.mark.parametrize(
    ("spec", "kind"),
    [
        (QuantizationSpec(torch.int8), MinMaxObserver),
        (QuantizationSpec(torch.int8, qscheme=torch.per_tensor_symmetric), MinMaxObserver),
        (QuantizationSpec(torch.int8, qscheme=torch.per_channel_affine, ch_axis=1), PerChannelMinMaxObserver),
        (QuantizationSpec(torch.int8, HistogramObserver), HistogramObserver),
        (QuantizationSpec(torch.int8, HistogramObserver.with_args(bins=64)), HistogramObserver),
        (FixedQParamsQuantizationSpec(torch.int8, 0.5, 3), FixedQParamsObserver),
    ],
)
def test_each_spec_gets_its_observer_with_the_fields_of_the_spec(spec, kind):
    observer = create_observer(spec, "here")
    assert type(observer) is kind
    assert observer.location == "here"
    assert observer.dtype is spec.dtype
    assert (observer.quant_min, observer.quant_max) == (-128, 127)
    assert observer.qscheme == (spec.qscheme or torch.per_tensor_affine)


def test_axis_of_the_spec_reaches_an_observer_of_any_name():
    spec = QuantizationSpec(torch.int8, MinMaxObserver, -127, 127, torch.per_channel_symmetric, 2)
    observer = create_observer(spec, "here")
    assert (observer.ch_axis, observer.quant_min) == (2, -127)


def test_a_constructor_that_refuses_its_fields_is_named_with_the_place():
    spec = QuantizationSpec(torch.int8, HistogramObserver.with_args(bins=3))
    with pytest.raises(InvalidSpecError, match=r"conv -> add: HistogramObserver does not take.*bins is 3"):
        create_observer(spec, "conv -> add")


def test_a_constructor_that_makes_no_observer_is_named():
    class Identity(nn.Identity):
        @classmethod
        def with_args(cls, **fields):
            return cls

    with pytest.raises(InvalidSpecError, match=r"made a Identity, which has no calculate_qparams"):
        create_observer(QuantizationSpec(torch.int8, Identity), "here")


def test_a_shared_spec_has_no_observer_of_its_own():
    with pytest.raises(UnsupportedError, match="SharedQuantizationSpec"):
        create_observer(SharedQuantizationSpec(object()), "here")


def test_what_is_an_observer():
    assert is_observer(MinMaxObserver())
    assert is_observer(torchao_pt2e.MinMaxObserver())
    assert is_observer(torchao_pt2e.FakeQuantize())
    assert not is_observer(nn.ReLU())
    assert not is_observer(MinMaxObserver)
    assert not is_observer(None)


# Observers of torchao, given by specs

TORCHAO_ACTIVATIONS = {
    "min-max": torchao_pt2e.MinMaxObserver,
    "min-max with arguments": torchao_pt2e.MinMaxObserver.with_args(eps=2**-12),
    "histogram": torchao_pt2e.HistogramObserver,
    "moving average": torchao_pt2e.MovingAverageMinMaxObserver,
    "fake quantize": torchao_pt2e.FakeQuantize.with_args(observer=torchao_pt2e.MovingAverageMinMaxObserver),
}
TORCHAO_WEIGHT = QuantizationSpec(
    torch.int8, torchao_pt2e.PerChannelMinMaxObserver, -127, 127, torch.per_channel_symmetric, 0
)
X = torch.randn(16, 6, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def model(export):
    torch.manual_seed(0)
    return export(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)), X)


def with_observers(activation, weight=TORCHAO_WEIGHT):
    spec = QuantizationSpec(torch.int8, activation, -128, 127, torch.per_tensor_affine)
    return SmallTable().set_global(QuantizationConfig(spec, spec, weight))


@pytest.mark.parametrize("name", TORCHAO_ACTIVATIONS)
def test_torchao_observers_go_from_prepare_to_convert(model, name):
    prepared = prepare_pt2e(model, with_observers(TORCHAO_ACTIVATIONS[name]))
    with pytest.raises(UncalibratedError, match="4 of 6 observers have seen no data"):
        convert_pt2e(prepared)
    calibrate(prepared, [X])
    difference = convert_pt2e(prepared)(X) - model(X)
    assert 0 < float(difference.detach().abs().max()) < 0.05


def test_torchao_min_max_gives_the_model_that_ours_gives(model, quantize):
    theirs = quantize(model, with_observers(torchao_pt2e.MinMaxObserver), X)
    ours = quantize(model, with_observers(MinMaxObserver, WEIGHT8), X)
    assert theirs.code == ours.code
    assert theirs.state_dict().keys() == ours.state_dict().keys()
    assert all(torch.equal(value, ours.state_dict()[name]) for name, value in theirs.state_dict().items())


def test_convert_leaves_torchao_observers_of_the_prepared_model_as_they_were(model):
    weight_only = SmallTable().set_global(QuantizationConfig(None, None, TORCHAO_WEIGHT))
    prepared = prepare_pt2e(model, weight_only)
    before = {name: value.clone() for name, value in prepared.state_dict().items()}
    convert_pt2e(prepared)
    assert all(torch.equal(value, before[name]) for name, value in prepared.state_dict().items())


def test_a_per_channel_observer_of_torchao_without_a_scheme_is_refused_by_name(model):
    spec = QuantizationSpec(torch.int8, torchao_pt2e.PerChannelMinMaxObserver, -127, 127)
    with pytest.raises(InvalidSpecError, match=r"weight -> linear.*PerChannelMinMaxObserver does not take"):
        prepare_pt2e(model, with_observers(MinMaxObserver, spec))


# In a model


def test_the_state_of_a_calibrated_model_loads_into_one_just_prepared(model):
    config = QuantizationConfig(QuantizationSpec(torch.int8, HistogramObserver), INT8, WEIGHT8)
    first, second = (prepare_pt2e(model, SmallTable().set_global(config)) for _ in range(2))
    calibrate(first, [X, X * 2])
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert convert_pt2e(second).code == convert_pt2e(first).code
    assert torch.equal(convert_pt2e(second)(X), convert_pt2e(first)(X))


def test_calibration_can_go_on_after_a_conversion(model):
    prepared = prepare_pt2e(model, with_observers(MinMaxObserver, WEIGHT8))
    calibrate(prepared, [X])
    first = convert_pt2e(prepared)
    before = first(X)
    calibrate(prepared, [X * 100])
    assert torch.equal(first(X), before)
    assert not torch.equal(convert_pt2e(prepared)(X), before)
