"""Qparams computed at run time: the ops emitted, and the values of a hand-written reference."""

import pytest
import torch
from quantizers import Apply, by_hand
from torch import nn
from torch.nn import functional

from quantizer_sdk import QuantizationSpec, convert_pt2e, prepare_pt2e, prepare_qat_pt2e
from quantizer_sdk.observers import MinMaxObserver, PerAxis, PerBlock, PerRow, PerToken, PlaceholderObserver

X = torch.randn(3, 4, 8) * torch.tensor([1.0, 10, 0.1, 5]).reshape(1, 4, 1)
WEIGHT = QuantizationSpec(torch.int8, None, -127, 127, torch.per_channel_symmetric, 0)
AFFINE, SYMMETRIC = torch.per_tensor_affine, torch.per_tensor_symmetric


def dynamic(scheme, dtype=torch.int8, ends=(None, None), observer=None):
    return QuantizationSpec(dtype, observer, *ends, scheme, is_dynamic=True)


def per_token(scheme, granularity=None):
    return dynamic(scheme, observer=PlaceholderObserver.with_args(granularity=granularity or PerToken()))


def converted_with(export, module, inputs, annotations):
    """Convert without any calibration: dynamic activations and weights need none."""
    return convert_pt2e(prepare_pt2e(export(module, *inputs), by_hand(annotations)))


def emitted(model):
    return [
        str(node.target).removeprefix("quantized_decomposed.")
        for node in model.graph.nodes
        if "quantized_decomposed" in str(node.target) and "channel" not in str(node.target)
    ]


def affine(x, low, high, axes=None):
    """Fake-quantize as PT2E's affine scheme does, in its own order of operations."""
    smallest = x.amin() if axes is None else x.amin(axes, keepdim=True)
    largest = x.amax() if axes is None else x.amax(axes, keepdim=True)
    smallest, largest = smallest.clamp(max=0), largest.clamp(min=0)
    scale = (largest - smallest) / (high - low)
    zero_point = (low - torch.round(smallest / scale)).clamp(low, high)
    return (torch.clamp(torch.round(x / scale) + zero_point, low, high) - zero_point) * scale, scale


def symmetric(x, low, high, axes=None):
    largest = x.abs().amax() if axes is None else x.abs().amax(axes, keepdim=True)
    scale = largest / ((high - low) / 2)
    zero_point = 0 if low < 0 else (low + high + 1) // 2
    return (torch.clamp(torch.round(x / scale) + zero_point, low, high) - zero_point) * scale, scale


@pytest.mark.parametrize(
    ("spec", "reference", "ops"),
    [
        (dynamic(AFFINE), lambda x: affine(x, -128, 127), "choose_qparams.tensor"),
        (dynamic(None), lambda x: affine(x, -128, 127), "choose_qparams.tensor"),
        (dynamic(AFFINE, torch.uint8), lambda x: affine(x, 0, 255), "choose_qparams.tensor"),
        (dynamic(AFFINE, torch.uint8, (0, 127)), lambda x: affine(x, 0, 127), "choose_qparams.tensor"),
        (dynamic(SYMMETRIC, ends=(-127, 127)), lambda x: symmetric(x, -127, 127), "choose_qparams_symmetric.tensor"),
        (dynamic(SYMMETRIC), lambda x: symmetric(x, -128, 127), "choose_qparams_symmetric.tensor"),
    ],
)
def test_per_tensor(export, spec, reference, ops):
    converted = converted_with(export, nn.Linear(8, 4), [X], {"linear": ({"input_1": spec, "weight": WEIGHT}, None)})
    assert emitted(converted) == [ops, "quantize_per_tensor.tensor", "dequantize_per_tensor.tensor"]
    assert_computes(converted, X, *reference(X))
    assert_computes(converted, 100 * X, *reference(100 * X))  # the scale follows the data


@pytest.mark.parametrize("granularity", [PerToken(), PerRow(-1)])
@pytest.mark.parametrize(
    ("scheme", "reference", "op"),
    [
        (AFFINE, lambda x: affine(x, -128, 127, -1), "choose_qparams_per_token_asymmetric.default"),
        (SYMMETRIC, lambda x: symmetric(x, -127, 127, -1), "choose_qparams_per_token.default"),
    ],
)
def test_per_token(export, scheme, reference, op, granularity):
    spec = per_token(scheme, granularity=granularity)
    converted = converted_with(export, nn.Linear(8, 4), [X], {"linear": ({"input_1": spec, "weight": WEIGHT}, None)})
    assert emitted(converted) == [op, "quantize_per_token.default", "dequantize_per_token.default"]
    assert_computes(converted, X, *reference(X))


def assert_computes(converted, x, activation, scale):
    """The linear layer on a fake-quantized activation; ties and zero points may go the other way by a step."""
    state = converted.state_dict()
    weight = state["weight"] * state["weight_scale"].reshape(-1, 1)
    expected = functional.linear(activation, weight, state["bias"])
    step = (scale * weight.abs().amax()).expand(*x.shape[:-1], 1)
    assert bool(((converted(x) - expected).abs() <= 2.01 * step).all())
    assert float(((converted(x) - expected).abs() <= 1e-5 * expected.abs().max()).double().mean()) > 0.9


def test_several_linears_on_one_tensor_quantize_it_once(export):
    def run(self, x):
        return self.q(x), self.k(x), self.v(x)

    module = Apply(run, q=nn.Linear(8, 4), k=nn.Linear(8, 4), v=nn.Linear(8, 4))
    specs = {f"{name}_weight": WEIGHT for name in "qkv"}
    nodes = zip(("linear", "linear_1", "linear_2"), specs.items(), strict=True)
    converted = converted_with(
        export, module, [X], {node: ({"x": dynamic(AFFINE), name: spec}, None) for node, (name, spec) in nodes}
    )
    assert emitted(converted).count("choose_qparams.tensor") == 1
    assert emitted(converted).count("quantize_per_tensor.tensor") == 1
    assert emitted(converted).count("dequantize_per_tensor.tensor") == 3


def test_dynamic_and_static_readers_of_one_tensor(export):
    module = Apply(lambda self, x: (self.fc(x), torch.relu(x)), fc=nn.Linear(8, 4))
    static = QuantizationSpec(torch.int8, qscheme=AFFINE)
    model = export(module, X)
    quantizer = by_hand(
        {"linear": ({"x": dynamic(AFFINE), "fc_weight": WEIGHT}, None), "relu": ({"x": static}, static)}
    )
    prepared = prepare_pt2e(model, quantizer)
    prepared(X)
    converted = convert_pt2e(prepared)
    assert emitted(converted).count("quantize_per_tensor.tensor") == 1
    assert emitted(converted).count("quantize_per_tensor.default") == 2


@pytest.mark.parametrize("kind", [PlaceholderObserver, MinMaxObserver])
def test_any_observer_may_mark_the_place(export, kind):
    spec = dynamic(AFFINE, observer=kind)
    converted = converted_with(export, nn.Linear(8, 4), [X], {"linear": ({"input_1": spec, "weight": WEIGHT}, None)})
    assert "choose_qparams.tensor" in emitted(converted)


def test_a_zero_input_and_a_single_row(export):
    annotations = {"linear": ({"input_1": per_token(AFFINE), "weight": WEIGHT}, None)}
    converted = converted_with(export, nn.Linear(8, 4), [X], annotations)
    bias = converted.state_dict()["bias"]
    assert torch.equal(converted(torch.zeros_like(X)), bias.expand(3, 4, 4))


def test_batches_of_any_size(export):
    shapes = ({0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence")},)
    model = export(nn.Linear(8, 4), X, dynamic_shapes=shapes)
    for spec in (dynamic(AFFINE), per_token(AFFINE), per_token(SYMMETRIC)):
        quantizer = by_hand({"linear": ({"input_1": spec, "weight": WEIGHT}, None)})
        converted = convert_pt2e(prepare_pt2e(model, quantizer))
        for shape in ((2, 7, 8), (5, 2, 8)):
            x = torch.randn(shape)
            assert (converted(x) - model(x)).abs().max() < 0.1
        again = torch.export.export(converted, (X,), dynamic_shapes=shapes).module()
        assert torch.equal(again(X), converted(X))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("make", [dynamic, per_token])
def test_half_precision_comes_back(export, dtype, make):
    x = X.to(dtype)
    annotations = {"linear": ({"input_1": make(AFFINE), "weight": WEIGHT}, None)}
    module = nn.Linear(8, 4).to(dtype)
    converted = converted_with(export, module, [x], annotations)
    assert converted(x).dtype == dtype
    assert (converted(x) - module(x)).abs().max() < 0.5


def test_new_nodes_carry_provenance(export):
    annotations = {"linear": ({"x": dynamic(AFFINE), "fc_weight": WEIGHT}, None)}
    converted = converted_with(export, Apply(lambda self, x: self.fc(x), fc=nn.Linear(8, 4)), [X], annotations)
    for node in converted.graph.nodes:
        if node.op == "call_function":
            assert node.meta.get("stack_trace"), node


SAMPLES = PerBlock((1, -1, -1, -1))
IMAGES = torch.randn(3, 4, 6, 5) * torch.tensor([1.0, 30, 0.2]).reshape(3, 1, 1, 1) + 0.5


def by_kernel(x, axes):
    """Quantize as a kernel does that quantizes its operand itself: one division, into the inverse of the scale."""
    low, high = x.amin(axes, keepdim=True).clamp(max=0), x.amax(axes, keepdim=True).clamp(min=0)
    inverse = torch.where(low == high, 1.0, torch.tensor(255.0) / (high - low))
    at_low, at_high = low * inverse, high * inverse
    zero_point = torch.where((-128 + at_low) + (127 + at_high) > 0, -128 - at_low, 127 - at_high)
    zero_point = zero_point.clamp(-128, 127).round()
    return ((x * inverse).round() + zero_point).clamp(-128, 127), 1 / inverse, zero_point


@pytest.mark.parametrize(
    ("granularity", "axes", "grid"),
    [
        (SAMPLES, (1, 2, 3), (3, 1, 1, 1)),
        (PerAxis(0), (1, 2, 3), (3, 1, 1, 1)),
        (PerBlock((1, -1, 1, 1)), (1,), (3, 1, 6, 5)),
        (PerRow(2), (2,), (3, 4, 1, 5)),
    ],
)
def test_per_block(export, granularity, axes, grid):
    spec = dynamic(AFFINE, observer=PlaceholderObserver.with_args(granularity=granularity, eps=0.0))
    module = nn.Conv2d(4, 2, 3)
    weight = QuantizationSpec(torch.int8, None, -127, 127, torch.per_channel_symmetric, 0)
    converted = converted_with(export, module, [IMAGES], {"conv2d": ({"input_1": spec, "weight": weight}, None)})
    ops = [node for node in converted.graph.nodes if "per_block" in str(node.target)]
    names = ["choose_qparams_per_block", "quantize_per_block", "dequantize_per_block"]
    assert [node.target._opname for node in ops] == names
    x = torch.cat((IMAGES[:2], torch.zeros(1, 4, 6, 5)))
    scale, zero_point = ops[0].target(x, *ops[0].args[1:])
    codes = ops[1].target(x, ops[1].args[1], scale, zero_point, *ops[1].args[4:])
    expected, expected_scale, expected_zero = by_kernel(x, axes)
    assert tuple(scale.shape) == tuple(zero_point.shape) == grid
    assert (scale.dtype, zero_point.dtype, codes.dtype) == (torch.float32, torch.int64, torch.int8)
    assert torch.equal(scale, expected_scale)
    assert torch.equal(zero_point, expected_zero.long())
    assert torch.equal(codes.float(), expected)


def test_blocks_of_an_open_batch_survive_the_file(export, tmp_path):
    batch = torch.export.Dim("batch", max=64)
    spec = dynamic(AFFINE, observer=PlaceholderObserver.with_args(granularity=SAMPLES))
    weight = QuantizationSpec(torch.int8, None, -127, 127, torch.per_channel_symmetric, 0)
    module = nn.Conv2d(4, 2, 3)
    model = export(module, IMAGES, dynamic_shapes=({0: batch},))
    quantizer = by_hand({"conv2d": ({"input_1": spec, "weight": weight}, None)})
    converted = convert_pt2e(prepare_pt2e(model, quantizer))
    program = torch.export.export(converted, (IMAGES,), dynamic_shapes=(({0: batch},),))
    torch.export.save(program, tmp_path / "model.pt2")
    loaded = torch.export.load(tmp_path / "model.pt2").module()
    for size in (1, 2, 64):
        x = torch.randn(size, 4, 6, 5)
        assert torch.equal(loaded(x), converted(x))
        assert (converted(x) - module(x)).abs().max() < 0.1


def test_training_rounds_each_block_as_the_converted_model_does(export):
    spec = dynamic(AFFINE, observer=PlaceholderObserver.with_args(granularity=SAMPLES, eps=0.0))
    prepared = prepare_qat_pt2e(export(nn.ReLU(), IMAGES), by_hand({"relu": ({"input_1": spec}, None)}))
    assert torch.equal(prepared(IMAGES), convert_pt2e(prepared)(IMAGES))
    codes, scale, zero_point = by_kernel(IMAGES, (1, 2, 3))
    assert torch.equal(prepared(IMAGES), torch.relu((codes - zero_point) * scale))


def test_a_smallest_scale_bounds_each_block(export):
    scale, zero_point = torch.ops.quantizer_sdk.choose_qparams_per_block(
        IMAGES, [1, -1, -1, -1], -128, 127, 0.5, torch.int8
    )
    assert scale.flatten().tolist()[::2] == [0.5, 0.5]
    assert scale[1] > 0.5
    assert zero_point.shape == (3, 1, 1, 1)
