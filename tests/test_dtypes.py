"""Every type of code through prepare and convert: what is stored, what is emitted, and what comes out."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quantizers import Apply, by_hand
from torch import nn
from torch.nn import functional

from quantizer_sdk import InvalidSpecError, QuantizationSpec
from quantizer_sdk.dtypes import CODE_RANGES, storage_dtype
from quantizer_sdk.observers import MinMaxObserver
from quantizer_sdk.qparams import next_power_of_two

X = torch.randn(64, 8)
INTEGERS = {
    torch.int8: torch.int8,
    torch.uint8: torch.uint8,
    torch.int16: torch.int16,
    torch.uint16: torch.uint16,
    torch.int32: torch.int32,
    torch.int4: torch.int8,
    torch.uint4: torch.uint8,
    torch.int2: torch.int8,
    torch.uint3: torch.uint8,
}
CAST = torch.ops.quantized_decomposed.convert_element_type.no_fuse


def calls(model, word):
    return [node for node in model.graph.nodes if node.op == "call_function" and word in str(node.target)]


def relu_with(spec):
    return by_hand({"relu": ({"input_1": spec}, None)})


@pytest.mark.parametrize("scheme", [torch.per_tensor_affine, torch.per_tensor_symmetric])
@pytest.mark.parametrize("dtype", INTEGERS)
def test_integers_of_each_width(export, quantize, dtype, scheme):
    converted = quantize(export(nn.ReLU(), X), relu_with(QuantizationSpec(dtype, qscheme=scheme)), X)
    (codes,) = calls(converted, ".quantize_per_tensor")
    scale, _zero_point, low, high, stored = codes.args[1:]
    assert (low, high) == CODE_RANGES[dtype]
    assert stored == INTEGERS[dtype] == storage_dtype(dtype)
    error = (converted(X) - torch.relu(X)).abs().max()
    # Half a step, and what the ops' float32 makes of codes that need more than its 24 bits.
    assert error <= scale * (0.5001 + max(-low, high) * 2.0**-23)


@pytest.mark.parametrize(
    ("dtype", "ends"),
    [(torch.int8, (-127, 127)), (torch.int8, (0, 127)), (torch.uint8, (10, 20)), (torch.int8, (-8, 7))],
)
@pytest.mark.parametrize("scheme", [torch.per_tensor_affine, torch.per_tensor_symmetric])
def test_a_narrow_range_is_kept_to(export, quantize, dtype, ends, scheme):
    spec = QuantizationSpec(dtype, None, *ends, scheme)
    converted = quantize(export(nn.ReLU(), X), relu_with(spec), X)
    (codes,) = calls(converted, ".quantize_per_tensor")
    found = codes.target(3 * X, *codes.args[1:])
    assert (int(found.min()), int(found.max())) == ends
    if scheme is torch.per_tensor_affine:
        assert (converted(X) - torch.relu(X)).abs().max() <= codes.args[1] * 0.501


@pytest.mark.parametrize("dtype", [torch.int8, torch.int4, torch.uint8])
def test_a_weight_takes_a_byte_a_code(export, quantize, dtype):
    spec = QuantizationSpec(dtype, qscheme=torch.per_channel_affine, ch_axis=0)
    model = export(nn.Linear(8, 4), X)
    converted = quantize(model, by_hand({"linear": ({"weight": spec}, None)}), X)
    weight = converted.state_dict()["weight"]
    assert weight.dtype == storage_dtype(dtype)
    low, high = CODE_RANGES[dtype]
    assert low <= int(weight.min()) < int(weight.max()) <= high
    bound = converted.state_dict()["weight_scale"].max() * 0.51 * X.abs().sum(1).max()
    assert (converted(X) - model(X)).abs().max() <= bound


@pytest.mark.parametrize(("dtype", "bits"), [(torch.float8_e4m3fn, 3), (torch.float8_e5m2, 2)])
def test_float8(export, quantize, dtype, bits):
    spec = QuantizationSpec(dtype, qscheme=torch.per_tensor_symmetric)
    converted = quantize(export(nn.ReLU(), X), relu_with(spec), X)
    (codes,) = calls(converted, ".quantize_per_tensor")
    scale, zero_point, low, high, stored = codes.args[1:]
    assert stored is dtype
    assert zero_point == 0
    assert (low, high) == (torch.finfo(dtype).min, torch.finfo(dtype).max)
    assert codes.target(X, *codes.args[1:]).float().abs().max() == high
    real = torch.relu(X)
    # To whole codes first, then to as many bits of mantissa as the type has.
    assert bool(((converted(X) - real).abs() <= real * 2.0 ** -(bits + 1) * 1.01 + scale * 0.51).all())


def test_float8_weights_are_stored_in_it(export, quantize):
    spec = QuantizationSpec(torch.float8_e4m3fn, qscheme=torch.per_channel_symmetric, ch_axis=0)
    converted = quantize(export(nn.Linear(8, 4), X), by_hand({"linear": ({"weight": spec}, None)}), X)
    assert converted.state_dict()["weight"].dtype == torch.float8_e4m3fn


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_cast_rounds_activations_and_halves_weights(export, quantize, dtype):
    spec = QuantizationSpec(dtype)
    model = export(nn.Linear(8, 4), X)
    converted = quantize(model, by_hand({"linear": ({"input_1": spec, "weight": spec}, spec)}), X)
    assert converted.state_dict()["weight"].dtype == dtype
    assert "weight_scale" not in converted.state_dict()
    assert [node.args[1] for node in calls(converted, "convert_element_type")] == [
        torch.float32,
        dtype,
        torch.float32,
        dtype,
        torch.float32,
    ]
    weight, bias = model.state_dict()["weight"], model.state_dict()["bias"]
    exact = functional.linear(X.to(dtype).float(), weight.to(dtype).float(), bias).to(dtype).float()
    assert torch.equal(converted(X), exact)
    assert converted(X).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scheme", [torch.per_tensor_affine, torch.per_channel_symmetric])
def test_models_of_half_precision(export, quantize, dtype, scheme):
    activation = QuantizationSpec(torch.int8, qscheme=torch.per_tensor_affine)
    weight = QuantizationSpec(torch.int8, None, -127, 127, scheme, 0)
    x = X.to(dtype)
    model = export(nn.Linear(8, 4).to(dtype), x)
    converted = quantize(model, by_hand({"linear": ({"input_1": activation, "weight": weight}, activation)}), x)
    assert converted(x).dtype == dtype
    assert all(node.kwargs == {"out_dtype": dtype} for node in calls(converted, "dequantize"))
    assert converted.state_dict()["weight"].dtype == torch.int8
    assert converted.state_dict()["weight_scale"].dtype == torch.float32 if scheme is torch.per_channel_symmetric else 1
    assert (converted(x) - model(x)).abs().max() < 0.1


def test_powers_of_two_cover_the_range(export, quantize):
    observer = MinMaxObserver.with_args(power_of_two_scale=True)
    activation = QuantizationSpec(torch.int8, observer, qscheme=torch.per_tensor_affine)
    weight = QuantizationSpec(torch.int8, observer, -127, 127, torch.per_channel_symmetric, 0)
    model = export(nn.Linear(8, 4), X)
    converted = quantize(model, by_hand({"linear": ({"input_1": activation, "weight": weight}, activation)}), X)
    plain = [MinMaxObserver(dtype=torch.int8) for _ in range(2)]
    for watcher, tensor in zip(plain, (X, model(X)), strict=True):
        watcher(tensor)
    scales = [node.args[1] for node in calls(converted, ".quantize_per_tensor")]
    for scale, watcher in zip(scales, plain, strict=True):
        least = float(watcher.calculate_qparams()[0])
        assert torch.frexp(torch.tensor(scale)).mantissa == 0.5
        assert least <= scale < 2 * least
    assert bool((torch.frexp(converted.state_dict()["weight_scale"]).mantissa == 0.5).all())
    assert (converted(X) - model(X)).abs().max() < 0.2


@settings(max_examples=200, deadline=None)
@given(st.floats(2.0**-120, 2.0**120, width=32))
def test_the_next_power_of_two(number):
    power = float(next_power_of_two(torch.tensor(number)))
    assert number <= power < 2 * number
    assert torch.frexp(torch.tensor(power)).mantissa == 0.5


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bool, torch.int64, torch.complex64])
def test_types_without_codes_are_refused(dtype):
    with pytest.raises(InvalidSpecError, match=rf"dtype is {dtype}; accepted are torch.int8"):
        QuantizationSpec(dtype)


def test_one_tensor_under_several_types(export, quantize):
    module = Apply(lambda _self, x: (torch.relu(x), torch.sin(x), torch.cos(x)))
    quantizer = by_hand(
        {
            "relu": ({"x": QuantizationSpec(torch.int8)}, None),
            "sin": ({"x": QuantizationSpec(torch.uint8)}, None),
            "cos": ({"x": QuantizationSpec(torch.float16)}, None),
        }
    )
    converted = quantize(export(module, X), quantizer, X)
    assert {str(node.args[5]) for node in calls(converted, ".quantize_per_tensor")} == {"torch.int8", "torch.uint8"}
    assert len([node for node in calls(converted, "convert_element_type") if node.args[1] is torch.float16]) == 1
