"""Prepared and converted models as objects: copied, saved, loaded, switched between modes."""

import copy
import io

import pytest
import torch
from quantizers import Apply, by_hand
from torch import nn

from quantizer_sdk import (
    DerivedQuantizationSpec,
    FixedQParamsQuantizationSpec,
    QuantizationSpec,
    UncalibratedError,
    UnsupportedError,
    convert_pt2e,
    explain,
    prepare_pt2e,
)
from quantizer_sdk.observers import (
    HistogramObserver,
    MinMaxObserver,
    MovingAverageMinMaxObserver,
    MovingAveragePerChannelMinMaxObserver,
    PerBlock,
    PerChannelMinMaxObserver,
    PerGroup,
    PerToken,
    PlaceholderObserver,
)
from quantizer_sdk.table import product_of_scales

AFFINE, CHANNEL = torch.per_tensor_affine, torch.per_channel_affine
BATCHES = [torch.randn(3, 8) * 10.0**power for power in (-1, 0, 1, 0)]
X = BATCHES[1]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x):
        return torch.sigmoid(self.two(torch.relu(self.one(x))))


def activation(kind, **options):
    scheme = CHANNEL if kind.default_qscheme is CHANNEL else AFFINE
    return QuantizationSpec(
        torch.int8, kind.with_args(**options), qscheme=scheme, ch_axis=1 if scheme is CHANNEL else None
    )


def weight(**options):
    return QuantizationSpec(torch.int8, MinMaxObserver.with_args(**options), -7, 7, torch.per_tensor_symmetric)


def bias(nodes):
    sources = [(nodes["relu"], nodes["linear_1"]), (nodes["two_weight"], nodes["linear_1"])]
    return DerivedQuantizationSpec(sources, product_of_scales, torch.int32, qscheme=torch.per_tensor_symmetric)


def dynamic(granularity=None):
    observer = PlaceholderObserver.with_args(granularity=granularity)
    return QuantizationSpec(torch.int8, observer, qscheme=AFFINE, is_dynamic=True)


FIXED = FixedQParamsQuantizationSpec(torch.uint8, 1 / 256, 0)
STATIC = {
    kind.__name__: activation(kind)
    for kind in (
        MinMaxObserver,
        MovingAverageMinMaxObserver,
        HistogramObserver,
        PerChannelMinMaxObserver,
        MovingAveragePerChannelMinMaxObserver,
    )
}
ACTIVATIONS = {
    **STATIC,
    "dynamic": dynamic(),
    "per_token": dynamic(PerToken()),
    "float16": QuantizationSpec(torch.float16),
    "float8": QuantizationSpec(torch.float8_e4m3fn, qscheme=torch.per_tensor_symmetric),
}
WEIGHTS = {
    "tensor": weight(),
    "group": weight(granularity=PerGroup(4)),
    "block": weight(granularity=PerBlock((2, 4))),
    "power_of_two": weight(power_of_two_scale=True),
}


def quantizer(spec, weight_spec=WEIGHTS["tensor"], with_bias=False):
    second = {"relu": spec, "two_weight": weight_spec} | ({"two_bias": bias} if with_bias else {})
    return by_hand(
        {
            "linear": ({"x": spec, "one_weight": weight_spec}, None),
            "relu": ({}, spec),
            "linear_1": (second, spec if not spec.is_dynamic else None),
            "sigmoid": ({}, FIXED),
        }
    )


@pytest.fixture(scope="module")
def model(export):
    torch.manual_seed(0)
    return export(Net(), X)


def prepared_with(model, spec, batches=(), **options):
    prepared = prepare_pt2e(model, quantizer(spec, **options))
    for batch in batches:
        prepared(batch)
    return prepared


def same(one, other):
    return all(torch.equal(one(batch), other(batch)) for batch in BATCHES)


# Copies


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_deepcopy_taken_amid_calibration_goes_its_own_way(model, name):
    spec = ACTIVATIONS[name]
    prepared = prepared_with(model, spec, BATCHES[:2])
    other = copy.deepcopy(prepared)
    for batch in BATCHES[2:]:
        prepared(batch)
    straight = prepared_with(model, spec, BATCHES)
    assert same(convert_pt2e(prepared), convert_pt2e(straight))
    assert same(convert_pt2e(other), convert_pt2e(prepared_with(model, spec, BATCHES[:2])))


def test_a_deepcopy_of_a_converted_model_computes_the_same(model):
    converted = convert_pt2e(prepared_with(model, STATIC["MinMaxObserver"], BATCHES))
    other = copy.deepcopy(converted)
    assert same(converted, other)
    assert str(explain(other)) == str(explain(converted))
    next(iter(other.buffers())).zero_()
    assert not same(converted, other)


# State dicts


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("seen", [0, 1, 2, 4])
@pytest.mark.parametrize("name", STATIC)
def test_a_state_dict_holds_all_that_calibration_found(model, name, seen, with_bias):
    spec = STATIC[name]
    with_bias = with_bias and spec.qscheme is AFFINE
    prepared = prepared_with(model, spec, BATCHES[:seen], with_bias=with_bias)
    file = io.BytesIO()
    torch.save(prepared.state_dict(), file)
    file.seek(0)
    fresh = prepared_with(model, spec, with_bias=with_bias)
    fresh.load_state_dict(torch.load(file))
    if seen == 0:
        with pytest.raises(UncalibratedError):
            convert_pt2e(fresh)
    else:
        assert same(convert_pt2e(fresh), convert_pt2e(prepared))
    for batch in BATCHES[seen:]:
        prepared(batch)
        fresh(batch)
    assert same(convert_pt2e(fresh), convert_pt2e(prepared))


def test_a_calibrated_state_replaces_that_of_other_data(model):
    spec = STATIC["MinMaxObserver"]
    one, other = prepared_with(model, spec, BATCHES), prepared_with(model, spec, [1000 * X])
    other.load_state_dict(one.state_dict())
    assert same(convert_pt2e(one), convert_pt2e(other))


def test_the_state_dict_of_a_converted_model(model):
    spec = STATIC["MinMaxObserver"]
    one = convert_pt2e(prepared_with(model, spec, BATCHES))
    other = convert_pt2e(prepared_with(model, spec, BATCHES))
    with torch.no_grad():
        for value in other.state_dict().values():
            value.zero_()
    other.load_state_dict(one.state_dict())
    assert same(one, other)


# Programs


@pytest.mark.parametrize("form", ["default", "unfolded", "tensor_qparams", "reference"])
@pytest.mark.parametrize("weight_name", WEIGHTS)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_exported_saved_and_loaded_it_computes_the_same_bits(model, name, weight_name, form):
    prepared = prepared_with(model, ACTIVATIONS[name], BATCHES, weight_spec=WEIGHTS[weight_name])
    options = {
        "default": {},
        "unfolded": {"fold_quantize": False},
        "tensor_qparams": {"tensor_qparams": True},
        "reference": {"use_reference_representation": True},
    }[form]
    converted = convert_pt2e(prepared, **options)
    file = io.BytesIO()
    torch.export.save(torch.export.export(converted, (X,)), file)
    file.seek(0)
    assert same(torch.export.load(file).module(), converted)


# Modes


@pytest.mark.parametrize("deepcopied", [False, True])
def test_models_for_inference_have_one_mode(model, deepcopied):
    prepared = prepared_with(model, STATIC["MinMaxObserver"], BATCHES)
    for original in (prepared, convert_pt2e(prepared)):
        made = copy.deepcopy(original) if deepcopied else original
        assert not made.training
        assert made.eval() is made
        assert made.train(False) is made
        with pytest.raises(UnsupportedError, match=r"no training mode; .*prepare_qat_pt2e"):
            made.train()
        assert not made.training
        made(X)


def test_hooks_stay(export):
    model = export(Apply(lambda self, x: self.fc(x), fc=nn.Linear(8, 4)), X)
    calls = []
    model.register_forward_hook(lambda _module, _args, result: calls.append(result.shape))
    prepared = prepare_pt2e(model, by_hand({"linear": ({"x": STATIC["MinMaxObserver"]}, None)}))
    prepared(X)
    convert_pt2e(prepared)(X)
    assert calls == [(3, 4), (3, 4)]


def test_a_prepared_model_shares_its_weights_and_nothing_that_changes(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    prepared = prepared_with(model, STATIC["MinMaxObserver"], BATCHES)
    weights = {id(value) for value in model.state_dict(keep_vars=True).values()}
    assert weights <= {id(value) for value in prepared.state_dict(keep_vars=True).values()}
    convert_pt2e(prepared)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
