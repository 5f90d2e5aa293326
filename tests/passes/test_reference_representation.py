"""Quantized arithmetic written out in integers: the very codes of the exact oracle, and no q/dq in between."""

import io

import pytest
import torch
from quantizers import Apply, by_hand
from torch import nn
from torch.nn import functional

from quantizer_sdk import (
    DerivedQuantizationSpec,
    QuantizationSpec,
    SharedQuantizationSpec,
    calibrate,
    convert_pt2e,
    prepare_pt2e,
)
from quantizer_sdk.conformance import run_oracle
from quantizer_sdk.observers import MinMaxObserver, PerToken, PlaceholderObserver
from quantizer_sdk.table import product_of_scales

AFFINE = torch.per_tensor_affine
INT8 = QuantizationSpec(torch.int8, qscheme=AFFINE)
UINT8 = QuantizationSpec(torch.uint8, qscheme=AFFINE)
WEIGHTS = {
    "per_tensor": QuantizationSpec(torch.int8, None, -127, 127, torch.per_tensor_symmetric),
    "per_channel": QuantizationSpec(torch.int8, None, -127, 127, torch.per_channel_symmetric, 0),
    "affine": QuantizationSpec(torch.int8, qscheme=torch.per_channel_affine, ch_axis=0),
}


def derived_bias(x, op):
    def make(nodes):
        sources = [(nodes[x], nodes[op]), (nodes["weight"], nodes[op])]
        return DerivedQuantizationSpec(
            sources, product_of_scales, torch.int32, qscheme=torch.per_channel_symmetric, ch_axis=0
        )

    return make


def forms(export, module, inputs, annotations):
    """Return the q/dq form and the reference form of one calibrated model."""
    prepared = prepare_pt2e(export(module, *inputs), by_hand(annotations))
    calibrate(prepared, [inputs])
    return convert_pt2e(prepared), convert_pt2e(prepared, use_reference_representation=True)


def targets(model):
    return [str(node.target) for node in model.graph.nodes if node.op == "call_function"]


def floats_in_between(model):
    """Nodes of float32 between the integer form of the input and that of the output."""
    return [name for name in targets(model) if "quantized_decomposed" in name or "quantizer_sdk" in name]


def assert_exact(qdq, reference, inputs):
    """The reference form gives the codes of the oracle on the codes that its own inputs have."""
    quantizes = [next(iter(n.users)) for n in qdq.graph.nodes if n.op == "placeholder"]
    codes = [q.target(x, *q.args[1:]) for q, x in zip(quantizes, inputs, strict=True)]
    sites = run_oracle(qdq, codes).outputs
    results = reference(*inputs)
    results = results if isinstance(results, (tuple, list)) else (results,)
    for site, result in zip(sites, results, strict=True):
        exact = site.requantized
        assert torch.equal(torch.round(result / float(exact.scale)) + exact.zero_point, exact.expected.to(result.dtype))
    assert floats_in_between(reference) == []
    for one, other in zip(results, tensors(qdq(*inputs)), strict=True):
        assert (one - other).abs().max() <= 1.01 * max(float(site.requantized.scale) for site in sites)


def tensors(results):
    return results if isinstance(results, (tuple, list)) else (results,)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("weight", WEIGHTS)
def test_linear(export, weight, bias):
    x = torch.randn(5, 3, 16)
    annotations = {"linear": ({"input_1": INT8, "weight": WEIGHTS[weight]}, INT8)}
    assert_exact(*forms(export, nn.Linear(16, 8, bias=bias), [x], annotations), [x])


def test_linear_with_an_int32_bias(export):
    x = torch.randn(5, 16)
    specs = {"input_1": INT8, "weight": WEIGHTS["per_channel"], "bias": derived_bias("input_1", "linear")}
    assert_exact(*forms(export, nn.Linear(16, 8), [x], {"linear": (specs, INT8)}), [x])


@pytest.mark.parametrize("weight", WEIGHTS)
def test_linear_and_relu(export, weight):
    x = torch.randn(5, 16)
    module = Apply(lambda self, x: torch.relu(self.fc(x)), fc=nn.Linear(16, 8))
    annotations = {"linear": ({"x": INT8, "fc_weight": WEIGHTS[weight]}, None), "relu": ({}, UINT8)}
    assert_exact(*forms(export, module, [x], annotations), [x])


CONVS = {
    "plain": ((3, 4, 3), {}),
    "padded": ((3, 4, 3), {"padding": 1, "stride": 2}),
    "dilated": ((3, 4, 3), {"dilation": 2, "padding": 2}),
    "grouped": ((4, 8, 3), {"groups": 2}),
    "depthwise": ((4, 4, 3), {"groups": 4, "padding": 1}),
    "same": ((3, 4, 3), {"padding": "same"}),
    "without_bias": ((3, 4, 1), {"bias": False}),
}


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("name", CONVS)
def test_conv2d(export, name, weight):
    sizes, options = CONVS[name]
    x = torch.randn(2, sizes[0], 7, 7)
    annotations = {"conv2d": ({"input_1": INT8, "weight": WEIGHTS[weight]}, INT8)}
    assert_exact(*forms(export, nn.Conv2d(*sizes, **options), [x], annotations), [x])


def test_conv2d_and_relu(export):
    x = torch.randn(2, 3, 7, 7)
    module = Apply(lambda self, x: torch.relu(self.conv(x)), conv=nn.Conv2d(3, 4, 3))
    annotations = {"conv2d": ({"x": INT8, "conv_weight": WEIGHTS["per_channel"]}, None), "relu": ({}, INT8)}
    assert_exact(*forms(export, module, [x], annotations), [x])


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("op", ["add", "mul"])
def test_binary(export, op, relu):
    x, y = torch.randn(4, 5), 3 * torch.randn(1, 5)
    function = torch.add if op == "add" else torch.mul
    module = Apply(lambda _self, a, b: torch.relu(function(a, b)) if relu else function(a, b))
    annotations = {op: ({"x": INT8, "others_0": UINT8}, None if relu else INT8)}
    if relu:
        annotations["relu"] = ({}, INT8)
    assert_exact(*forms(export, module, [x, y], annotations), [x, y])


@pytest.mark.parametrize("spec", [lambda nodes: SharedQuantizationSpec((nodes["x"], nodes["max_pool2d"])), UINT8])
def test_max_pool(export, spec):
    x = torch.randn(2, 3, 8, 8)
    module = Apply(lambda _self, x: functional.max_pool2d(x, 3, 2, 1))
    assert_exact(*forms(export, module, [x], {"max_pool2d": ({"x": INT8}, spec)}), [x])


def test_ties_go_to_the_even_code_and_are_not_cut_off(export):
    # Scales of powers of two put a quarter of the sums exactly between two codes.
    observer = MinMaxObserver.with_args(power_of_two_scale=True)
    fine = QuantizationSpec(torch.int8, observer, -128, 127, torch.per_tensor_symmetric)
    x = torch.arange(-127, 128).float().reshape(1, -1) / 128
    module = Apply(lambda _self, a, b: a + b)
    qdq, reference = forms(export, module, [x, 63 * x], {"add": ({"x": fine, "others_0": fine}, fine)})
    assert_exact(qdq, reference, [x, 63 * x])


def dynamic_spec(granularity):
    observer = PlaceholderObserver.with_args(granularity=granularity)
    return QuantizationSpec(torch.int8, observer, qscheme=AFFINE, is_dynamic=True)


@pytest.mark.parametrize("granularity", [None, PerToken()])
@pytest.mark.parametrize("weight", WEIGHTS)
def test_dynamic_linear(export, weight, granularity):
    x = torch.randn(5, 3, 16)
    annotations = {"linear": ({"input_1": dynamic_spec(granularity), "weight": WEIGHTS[weight]}, None)}
    qdq, reference = forms(export, nn.Linear(16, 8), [x], annotations)
    for each in (x, 100 * x, torch.zeros_like(x)):
        assert torch.allclose(reference(each), qdq(each), rtol=1e-5, atol=1e-5)
    assert not [name for name in targets(reference) if ".dequantize" in name]
    integers = [node for node in reference.graph.nodes if node.target is torch.ops.aten.linear.default]
    assert all("_to_copy" in node.args[0].name or "sub" in node.args[0].name for node in integers)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("tensor_qparams", [False, True])
def test_q_and_dq_that_are_left_are_plain_arithmetic_to_the_bit(export, dtype, tensor_qparams):
    x = torch.randn(6, 4).to(dtype)
    spec = QuantizationSpec(torch.uint8, qscheme=AFFINE)
    channel = QuantizationSpec(torch.int8, qscheme=torch.per_channel_affine, ch_axis=1)
    module = Apply(lambda _self, x: (torch.sin(x), torch.cos(x)))
    prepared = prepare_pt2e(export(module, x), by_hand({"sin": ({"x": spec}, None), "cos": ({"x": channel}, None)}))
    calibrate(prepared, [x])
    qdq = convert_pt2e(prepared, tensor_qparams=tensor_qparams)
    reference = convert_pt2e(prepared, True, tensor_qparams=tensor_qparams)
    assert floats_in_between(reference) == []
    for each in (x, 3 * x):
        for one, other in zip(reference(each), qdq(each), strict=True):
            assert one.dtype == other.dtype == dtype
            assert torch.equal(one, other)


def test_scales_by_group_stay_as_ops(export):
    from quantizer_sdk.observers import PerGroup

    weight = QuantizationSpec(torch.int8, MinMaxObserver.with_args(granularity=PerGroup(4)), -8, 7)
    x = torch.randn(2, 8)
    qdq, reference = forms(export, nn.Linear(8, 4), [x], {"linear": ({"input_1": INT8, "weight": weight}, INT8)})
    assert torch.equal(qdq(x), reference(x))
    assert any("dequantize_per_channel_group" in name for name in targets(reference))


def test_it_exports_saves_and_loads(export):
    x = torch.randn(2, 3, 7, 7)
    annotations = {"conv2d": ({"input_1": INT8, "weight": WEIGHTS["per_channel"]}, INT8)}
    _qdq, reference = forms(export, nn.Conv2d(3, 4, 3), [x], annotations)
    file = io.BytesIO()
    torch.export.save(torch.export.export(reference, (x,)), file)
    file.seek(0)
    assert torch.equal(torch.export.load(file).module()(x), reference(x))


def test_the_result_carries_provenance(export):
    x = torch.randn(2, 3, 7, 7)
    module = Apply(lambda self, x: self.conv(x), conv=nn.Conv2d(3, 4, 3))
    annotations = {"conv2d": ({"x": INT8, "conv_weight": WEIGHTS["per_channel"]}, INT8)}
    _qdq, reference = forms(export, module, [x], annotations)
    assert all(node.meta.get("stack_trace") for node in reference.graph.nodes if node.op == "call_function")
