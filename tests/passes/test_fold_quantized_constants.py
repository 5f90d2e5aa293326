"""Quantized weights are stored as codes; their float originals are gone, unless something else reads them."""

import pytest
import torch
from quantizers import CONFIG, INT8, WEIGHT8, Apply, SmallTable, by_hand, targets
from torch import nn
from torch.nn import functional

from quantizer_sdk import QuantizationConfig, QuantizationSpec, calibrate, convert_pt2e, prepare_pt2e
from quantizer_sdk.qdq import is_quantize

OPS = torch.ops.quantized_decomposed
X = torch.randn(4, 3)
WEIGHT_ONLY = QuantizationConfig(None, None, WEIGHT8)


def convert(model, quantizer):
    return convert_pt2e(prepare_pt2e(model, quantizer))


def codes_of(weight, axis=0):
    """Quantize a weight the plain way: symmetric, by channel, to -127..127."""
    scale = weight.detach().abs().amax(tuple(other for other in range(weight.dim()) if other != axis)) / 127
    shape = [-1 if dim == axis else 1 for dim in range(weight.dim())]
    return torch.round(weight.detach() * (1 / scale).reshape(shape)).clamp(-127, 127).to(torch.int8), scale


def test_a_weight_is_stored_as_its_codes_under_its_own_name(export):
    module = nn.Linear(3, 5)
    converted = convert(export(module, X), SmallTable().set_global(WEIGHT_ONLY))
    state = converted.state_dict()
    codes, scale = codes_of(module.weight)
    assert set(state) == {"weight", "bias", "weight_scale", "weight_zero_point"}
    assert torch.equal(state["weight"], codes)
    assert torch.equal(state["weight_scale"], scale)
    assert state["bias"].data_ptr() == module.bias.data_ptr()
    assert dict(converted.named_parameters()).keys() == {"bias"}
    assert "weight" in dict(converted.named_buffers())
    assert not [node for node in converted.graph.nodes if is_quantize(node)]


def test_paths_of_nested_modules_stay(export):
    module = nn.Sequential(nn.Sequential(nn.Linear(3, 5)))
    converted = convert(export(module, X), SmallTable().set_global(WEIGHT_ONLY))
    assert set(converted.state_dict()) == {"0.0.weight", "0.0.bias", "0.0.weight_scale", "0.0.weight_zero_point"}


@pytest.mark.parametrize(
    ("shape", "path"),
    [
        ((3, 5), lambda weight: weight.t()),
        ((3, 5), lambda weight: weight.transpose(0, 1)),
        ((15,), lambda weight: weight.view(5, 3)),
        ((5, 1, 3), lambda weight: weight.squeeze(1)),
        ((3, 5), lambda weight: (weight * 2).permute(1, 0).contiguous()),
    ],
    ids=["t", "transpose", "view", "squeeze", "a chain"],
)
def test_what_comes_between_weight_and_its_codes_is_computed_beforehand(export, shape, path):
    weight = nn.Parameter(torch.randn(shape))
    model = export(Apply(lambda self, x: functional.linear(x, path(self.weight)), weight=weight), X)
    converted = convert(model, SmallTable().set_global(WEIGHT_ONLY))
    assert targets(converted) == ["dequantize_per_channel", "linear"]
    assert converted.state_dict()["weight"].is_contiguous()
    assert torch.equal(converted.state_dict()["weight"], codes_of(path(weight))[0])


def test_constants_of_several_tensors_are_computed_beforehand(export):
    parts = {"one": nn.Parameter(torch.randn(5, 3)), "other": nn.Parameter(torch.randn(5, 3))}
    model = export(Apply(lambda self, x: functional.linear(x, self.one * self.other), **parts), X)
    linear = by_hand({"linear": ({"mul": WEIGHT8}, None)})
    converted = convert(model, linear)
    assert targets(converted) == ["dequantize_per_channel", "linear"]
    assert [
        value.dtype for name, value in converted.state_dict().items() if "scale" not in name and "zero" not in name
    ] == [torch.int8]


def test_tied_weights_are_stored_once(export):
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    module[1].weight = module[0].weight
    converted = convert(export(module, X), SmallTable().set_global(WEIGHT_ONLY))
    stored = [value for value in converted.state_dict().values() if value.dtype is torch.int8]
    assert len(stored) == 1
    dequantizes = converted.graph.find_nodes(op="call_function", target=OPS.dequantize_per_channel.default)
    assert len(dequantizes) == 2
    assert dequantizes[0].args == dequantizes[1].args


def test_a_module_called_twice_keeps_one_weight(export):
    model = export(Apply(lambda self, x: self.fc(self.fc(x)), fc=nn.Linear(3, 3)), X)
    converted = convert(model, SmallTable().set_global(WEIGHT_ONLY))
    assert set(converted.state_dict()) == {"fc.weight", "fc.bias", "fc.weight_scale", "fc.weight_zero_point"}


def test_a_weight_that_is_read_in_float_too_stays_beside_its_codes(export):
    module = Apply(lambda self, x: self.fc(x) * torch.sin(self.fc.weight).sum(), fc=nn.Linear(3, 5))
    model = export(module, X)
    converted = convert(model, SmallTable().set_global(WEIGHT_ONLY))
    state = converted.state_dict()
    assert torch.equal(state["fc.weight"], module.fc.weight)
    codes, scale = codes_of(module.fc.weight)
    assert torch.equal(state["fc.weight_1"], codes)
    # Each weight of the layer is off by half a step at most; those behind sin are the float ones.
    bound = X.abs().sum(1, keepdim=True) * scale / 2 * torch.sin(module.fc.weight.detach()).sum().abs()
    assert ((converted(X) - model(X)).abs() <= bound + 1e-6).all()


def test_one_weight_under_two_specs_is_stored_under_both(export):
    per_tensor = QuantizationSpec(torch.uint8, qscheme=torch.per_tensor_affine)
    module = Apply(lambda self, x: functional.linear(x, self.w) + functional.linear(x + 1, self.w), w=nn.Parameter(X))
    quantizer = by_hand({"linear": ({"w": WEIGHT8}, None), "linear_1": ({"w": per_tensor}, None)})
    converted = convert(export(module, X), quantizer)
    stored = [value.dtype for value in converted.state_dict().values()]
    assert stored.count(torch.int8) == stored.count(torch.uint8) == 1
    assert not [
        name
        for name, value in converted.state_dict().items()
        if value.shape == X.shape and value.dtype.is_floating_point
    ]


def test_codes_of_codes_are_folded_to_the_end(export):
    module = Apply(lambda self, x: functional.linear(x, self.w), w=nn.Parameter(torch.randn(5, 3)))
    model = export(module, X)
    prepared = prepare_pt2e(model, by_hand({"w": ({}, INT8), "linear": ({"w": WEIGHT8}, None)}))
    calibrate(prepared, [X])
    converted = convert_pt2e(prepared)
    assert targets(converted) == ["dequantize_per_channel", "linear"]
    # Each weight is off by one step of the affine codes, whose ends may clip, and half a step of the symmetric ones.
    first = (module.w.max().clamp(min=0) - module.w.min().clamp(max=0)).detach() / 255
    second = next(value for name, value in converted.state_dict().items() if name.endswith("scale"))
    bound = X.abs().sum(1, keepdim=True) * (first + second / 2)
    assert ((converted(X) - model(X)).abs() <= bound + 1e-6).all()


def test_a_float_bias_stays_what_it_was(export):
    module = nn.Linear(3, 5)
    converted = convert(export(module, X), SmallTable().set_global(WEIGHT_ONLY))
    assert torch.equal(converted.state_dict()["bias"], module.bias)


def test_random_numbers_are_drawn_at_run_time(export):
    def run(self, x):
        return functional.linear(x, torch.rand_like(self.weight))

    model = export(Apply(run, weight=nn.Parameter(torch.randn(5, 3))), X)
    prepared = prepare_pt2e(model, by_hand({"linear": ({"rand_like": INT8}, None)}))
    calibrate(prepared, [X])
    converted = convert_pt2e(prepared)
    assert "rand_like" in targets(converted)
    assert not torch.equal(converted(X), converted(X))


def test_state_that_the_model_writes_is_quantized_at_run_time(export):
    def run(self, x):
        y = x + self.state
        self.state.add_(x.mean(0))
        return y

    x = torch.full((4, 3), 0.5)
    model = export(Apply(run, state=torch.zeros(3)), x)
    prepared = prepare_pt2e(model, by_hand({"add": ({"state": INT8}, None)}))
    calibrate(prepared, [x, x, x, x])
    converted = convert_pt2e(prepared)
    converted.state.zero_()
    outputs = [float(converted(x)[0, 0]) for _ in range(3)]
    half_a_step = 1.5 / 255 / 2  # calibration saw the state go from 0 to 1.5
    torch.testing.assert_close(outputs, [0.5, 1.0, 1.5], atol=half_a_step + 1e-6, rtol=0)


def test_the_float_model_keeps_its_weights(export):
    module = nn.Linear(3, 5)
    model = export(module, X)
    convert(model, SmallTable().set_global(WEIGHT_ONLY))
    assert model.state_dict()["weight"].dtype is torch.float32
    assert torch.equal(model.state_dict()["weight"], module.weight)


def test_a_constant_that_is_no_parameter_is_folded(export, quantize):
    model = export(Apply(lambda self, x: x + torch.tensor([1.0, 2.0, 5.0])), X)
    converted = quantize(model, SmallTable().set_global(CONFIG), X)
    (add,) = converted.graph.find_nodes(op="call_function", target=torch.ops.aten.add.Tensor)
    codes = add.args[1].args[0]
    assert codes.op == "get_attr"
    assert converted.state_dict()[codes.target].tolist() == [-77, -26, 127]


def test_the_converted_model_is_about_a_quarter_of_the_size(export, quantize):
    x = torch.randn(2, 16, 8, 8)
    model = export(nn.Sequential(nn.Conv2d(16, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3)), x)
    converted = quantize(model, SmallTable().set_global(CONFIG), x)

    def size(one):
        return sum(value.nbytes for value in one.state_dict().values())

    assert size(converted) < 0.3 * size(model)
