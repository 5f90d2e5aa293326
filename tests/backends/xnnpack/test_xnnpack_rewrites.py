"""Ops that XNNPACK has no integer kernel for, written as others that it has: on the real runtime, and within bounds."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  # its usual name

from quantizer_sdk import calibrate, convert_pt2e, explain, prepare_pt2e
from quantizer_sdk.backends.xnnpack import XNNPACKQuantizer, get_symmetric_quantization_config, lower

pytest.importorskip("executorch")

U = 2.0**-24
IMAGE = (2, 3, 8, 8)


class Calls(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class ByParameter(nn.Module):
    """A product with a parameter of shape [9, 7], or of [7, 9] transposed."""

    def __init__(self, transposed):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(7, 9) if transposed else torch.randn(9, 7))
        self.transposed = transposed

    def forward(self, x):
        return torch.matmul(x, self.weight.transpose(0, 1) if self.transposed else self.weight)


class AddMM(nn.Module):
    """A sum of a parameter of a shape and a product with one of shape [9, 7], each with a factor."""

    def __init__(self, shape=(7,), **factors):
        super().__init__()
        self.weight, self.added = nn.Parameter(torch.randn(9, 7)), nn.Parameter(torch.randn(shape))
        self.factors = factors

    def forward(self, x):
        return torch.addmm(self.added, x, self.weight, **self.factors)


def norm():
    module = nn.BatchNorm2d(3)
    with torch.no_grad():
        for tensor in (module.weight, module.bias, module.running_mean):
            tensor.copy_(torch.randn(3))
        module.running_var.uniform_(0.5, 2)
    return module


# module, input shape, kernels, bound in float32 roundoffs of the largest magnitude (0: exactly equal)
CASES = {
    "silu": (lambda: Calls(F.silu), IMAGE, ["Table(Sigmoid)", "Multiply"], 4),
    "hardsigmoid": (lambda: Calls(F.hardsigmoid), IMAGE, ["Add", "Clamp", "Multiply"], 4),
    "square": (lambda: Calls(lambda x: x**2), IMAGE, ["Table(Square)"], 0),
    "clamp": (lambda: Calls(lambda x: x.clamp(-1, 1)), IMAGE, ["Clamp"], 0),
    "clamp_from_0": (lambda: Calls(lambda x: x.clamp(min=0)), IMAGE, ["Clamp"], 0),
    "add_number": (lambda: Calls(lambda x: x + 1.5), IMAGE, ["Add"], 0),
    "number_minus": (lambda: Calls(lambda x: 1.5 - x), IMAGE, ["Subtract"], 0),
    "times_number": (lambda: Calls(lambda x: 0.3 * x), IMAGE, ["Multiply"], 0),
    "over_number": (lambda: Calls(lambda x: x / 3), IMAGE, ["Multiply"], 2),
    "matmul": (lambda: ByParameter(False), (4, 9), ["FullyConnected"], 10),
    "matmul_3d": (lambda: ByParameter(False), (2, 4, 9), ["FullyConnected"], 10),
    "matmul_transposed": (lambda: ByParameter(True), (4, 9), ["FullyConnected"], 10),
    "addmm": (AddMM, (4, 9), ["FullyConnected"], 10),
    "addmm_twice_a_product": (lambda: AddMM(alpha=2), (4, 9), ["FullyConnected", "Multiply", "Add"], 20),
    "addmm_half_a_vector": (lambda: AddMM(beta=0.5), (4, 9), ["FullyConnected", "Add"], 10),
    "addmm_without_a_vector": (lambda: AddMM(beta=0), (4, 9), ["FullyConnected"], 10),
    "addmm_a_matrix": (lambda: AddMM((4, 7)), (4, 9), ["FullyConnected", "Add"], 10),
    "average_pool": (lambda: nn.AvgPool2d(2), IMAGE, ["DepthwiseConv2d"], 5),
    "average_pool_padded": (lambda: nn.AvgPool2d(3, 2, 1), IMAGE, ["DepthwiseConv2d"], 10),
    "batch_norm": (norm, IMAGE, ["DepthwiseConv2d"], 8),
    "mean_of_signal": (lambda: Calls(lambda x: x.mean(-1)), (2, 3, 20), ["GlobalAvgPooling2d"], 20),
    "mean_of_signal_keeping_axes": (
        lambda: Calls(lambda x: x.mean(2, keepdim=True)),
        (2, 3, 20),
        ["GlobalAvgPooling2d"],
        20,
    ),
    "adaptive_avg_pool1d": (lambda: nn.AdaptiveAvgPool1d(1), (2, 3, 20), ["GlobalAvgPooling2d"], 20),
    "chunk": (
        lambda: Calls(lambda x: torch.cat(torch.chunk(torch.relu(x), 2, 2)[::-1], 1)),
        IMAGE,
        ["Clamp", "StaticSlice", "StaticSlice", "Concatenate2"],
        0,
    ),
    "split": (
        lambda: Calls(lambda x: torch.split(torch.relu(x), [3, 5], -1)[1]),
        IMAGE,
        ["Clamp", "StaticSlice"],
        0,
    ),
}
LAYOUT = {"StaticTranspose", "StaticReshape"}


def exported(module, x):
    return torch.export.export(module.eval(), (x,)).module()


@pytest.fixture(scope="module", params=CASES)
def case(request):
    torch.manual_seed(0)
    make, shape, kernels, bound = CASES[request.param]
    module, x = make(), 2 * torch.randn(shape)
    prepared = prepare_pt2e(exported(module, x), XNNPACKQuantizer())
    calibrate(prepared, [x])
    return module, x, prepared, kernels, bound


def test_the_float_model_is_the_same(case):
    module, x, _prepared, _kernels, bound = case
    rewritten = XNNPACKQuantizer().transform_for_annotation(exported(module, x))
    rewritten.recompile()
    with torch.no_grad():
        before, after = module(x), rewritten(x)
    scale = max(1.0, float(before.abs().max()), float(x.abs().max()))
    assert float((before - after).abs().max()) <= bound * U * scale


def test_it_runs_on_integer_kernels_alone(case):
    module, x, prepared, kernels, _bound = case
    converted = convert_pt2e(prepared)
    program = lower(converted, [x], integer_io=True)
    found = program.kernels()
    assert all(kernel.integer for kernel in found)
    assert [kernel.name for kernel in found if kernel.name not in LAYOUT] == kernels
    assert program.delegation().non_delegated == ()
    with torch.no_grad():
        wanted, (graph,) = module(x), [converted(x)]
    (actual,) = lower(converted, [x]).run(x)
    step = float((wanted.max() - wanted.min()) / 255)
    assert float((actual - graph).abs().max()) <= 1.1 * step  # one code
    assert float((actual - wanted).pow(2).mean() / wanted.pow(2).mean()) < 1e-3  # 30 dB


def test_each_new_node_says_where_it_comes_from(case):
    _module, _x, prepared, _kernels, _bound = case
    for node in prepared.graph.nodes:
        if node.op == "call_function":
            assert "val" in node.meta
            assert node.meta["stack_trace"]


def test_explain_names_the_original():
    x = torch.randn(IMAGE)
    prepared = prepare_pt2e(exported(Calls(F.silu), x), XNNPACKQuantizer())
    assert "aten.silu.default: written as sigmoid" in str(explain(prepared))


@pytest.mark.parametrize("function", [lambda x: torch.cumsum(torch.cumsum(x, 1) / 8, 1)], ids=["division"])
def test_nothing_is_rewritten_among_float_ops(function):
    model = exported(Calls(function), torch.randn(IMAGE))
    before = [node.target for node in model.graph.nodes]
    XNNPACKQuantizer().transform_for_annotation(model)
    assert [node.target for node in model.graph.nodes] == before


@pytest.mark.parametrize("name", CASES)
def test_what_a_rule_leaves_float_stays_as_it_was(name):
    make, shape, _kernels, _bound = CASES[name]
    model = exported(make(), torch.randn(shape))
    before = str(model.graph)
    quantizer = XNNPACKQuantizer().set_operator_type(
        torch.ops.aten.conv3d, get_symmetric_quantization_config(is_per_channel=True)
    )
    quantizer.transform_for_annotation(model)
    assert str(model.graph) == before
    assert not [name for name, _value in model.named_buffers() if "constant" in name]


def test_an_average_that_leaves_the_padding_out_stays_float():
    x = torch.randn(IMAGE)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AvgPool2d(3, 2, 1, count_include_pad=False))
    report = explain(prepare_pt2e(exported(module, x), XNNPACKQuantizer()))
    assert [op.reason for op in report.ops if op.state == "float"] == ["no row for aten.avg_pool2d.default"]


def test_a_clamp_behind_a_convolution_is_part_of_its_kernel():
    x = torch.randn(IMAGE)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), Calls(lambda x: x.clamp(-1, 1)))
    prepared = prepare_pt2e(exported(module, x), XNNPACKQuantizer())
    calibrate(prepared, [x])
    program = lower(convert_pt2e(prepared), [x], integer_io=True)
    assert [kernel.name for kernel in program.kernels() if kernel.name not in LAYOUT] == ["Conv2d"]


def conv_and(function):
    return nn.Sequential(nn.Conv2d(3, 4, 3), Calls(function))


ORIGINALS = {
    "silu": (conv_and(F.silu), torch.ops.aten.silu.default),
    "hardsigmoid": (conv_and(F.hardsigmoid), torch.ops.aten.hardsigmoid.default),
    "clamp": (conv_and(lambda x: x.clamp(-0.1, 0.3)), torch.ops.aten.clamp.default),
    "pooled_relu": (conv_and(lambda x: F.relu(F.max_pool2d(x, 2))), torch.ops.aten.relu.default),
    "average_pool": (conv_and(lambda x: F.avg_pool2d(x, 2)), torch.ops.aten.avg_pool2d.default),
    "matmul": (nn.Sequential(nn.Linear(8, 9), ByParameter(False)), torch.ops.aten.matmul.default),
}


@pytest.mark.parametrize("name", ORIGINALS)
@pytest.mark.parametrize("by", ["op", "filter"])
def test_rules_name_the_users_own_op(name, by):
    module, original = ORIGINALS[name]
    x = torch.randn((2, 8) if name == "matmul" else IMAGE)
    quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    if by == "op":
        quantizer.set_operator_type(original, None)
    else:
        quantizer.set_filter_function(lambda node: node.target is not original)
    left = explain(prepare_pt2e(exported(module, x), quantizer)).float_ops()
    words = f"excluded by the rule for op type {original}" if by == "op" else "excluded by the filter function"
    assert [op.reason for op in left] == [words]


def test_a_rule_for_an_op_covers_what_it_is_rewritten_as():
    quantizer = XNNPACKQuantizer().set_operator_type(
        torch.ops.aten.silu, get_symmetric_quantization_config(is_per_channel=True)
    )
    report = explain(prepare_pt2e(exported(Calls(F.silu), torch.randn(IMAGE)), quantizer))
    assert not report.float_ops()
    assert not report.notes
