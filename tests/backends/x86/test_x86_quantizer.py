"""What X86Quantizer claims, for each of its runtimes, and what its configs and rules say."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  # its usual name

from quantizer_sdk import RuleError, calibrate, convert_pt2e, explain, prepare_pt2e, prepare_qat_pt2e
from quantizer_sdk.backends.x86 import (
    X86InductorQuantizer,
    X86Quantizer,
    get_default_x86_inductor_quantization_config,
    get_default_x86_quantization_config,
)
from quantizer_sdk.backends.x86.isa import INSTRUCTION_SETS, sums_are_exact
from quantizer_sdk.demo.data import load_images, load_lite0

OPS = torch.ops.quantized_decomposed
TARGETS = ("onednn", "inductor", "onnxruntime")
GEMMS = ("conv1d", "conv2d", "conv3d", "linear", "addmm", "mm")


def exported(model, *inputs):
    return torch.export.export(model.eval(), inputs).module()


def quantized(model, *inputs, quantizer):
    prepared = prepare_pt2e(exported(model, *inputs), quantizer)
    calibrate(prepared, [inputs, inputs])
    return convert_pt2e(prepared)


def gemms(model):
    """The state of each convolution and linear; those that are written as others count as these."""
    return [op.state for op in explain(model).ops if op.op.split(".")[1] in GEMMS and op.state != "folded"]


def quantizes(model):
    return [node for node in model.graph.nodes if node.target is OPS.quantize_per_tensor.default]


class ReusedReLU(nn.Module):
    """A VGG whose layers share one activation module."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3 if i == 0 else 8, 8, 3, padding=1) for i in range(4))
        self.relu, self.pool = nn.ReLU(inplace=True), nn.MaxPool2d(2)
        self.head = nn.Linear(8 * 4, 10)

    def forward(self, x):
        for place, conv in enumerate(self.convs):
            x = self.relu(conv(x))
            if place % 2:
                x = self.pool(x)
        return self.head(x.flatten(1))


class PlusNumber(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.conv(x) + 1.0


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x, need_weights=False)[0]


class Functional(nn.Module):
    """Layers without modules, one of them called twice."""

    def __init__(self):
        super().__init__()
        self.weight, self.other = nn.Parameter(torch.randn(8, 8)), nn.Parameter(torch.randn(8, 6))
        self.bias, self.layer = nn.Parameter(torch.randn(6)), nn.Linear(8, 8)

    def forward(self, x):
        x = self.layer(F.relu(self.layer(F.linear(x, self.weight))))
        return torch.addmm(self.bias, x, self.other) + x @ self.other


class LinearOnly(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))


MODELS = {
    "reused relu": (ReusedReLU, (2, 3, 8, 8), 5),
    "conv plus a number": (PlusNumber, (2, 3, 8, 8), 1),
    "padding same": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3, padding="same"), nn.ReLU()), (2, 3, 8, 8), 1),
    "conv1d alone": (lambda: nn.Conv1d(3, 4, 3), (2, 3, 8), 1),
    "conv3d": (lambda: nn.Sequential(nn.Conv3d(2, 4, 3), nn.ReLU()), (1, 2, 5, 6, 7), 1),
    "multihead attention": (Attention, (2, 5, 16), 2),
    "encoder layer": (lambda: nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), (2, 5, 16), 4),
    "functions": (Functional, (4, 8), 5),
}


@pytest.mark.parametrize(
    ("name", "target"),
    [(name, target) for name in MODELS for target in TARGETS if (name, target) != ("conv3d", "inductor")],
)
def test_all_gemms_are_quantized(name, target):
    build, shape, count = MODELS[name]
    model = quantized(build(), torch.randn(shape), quantizer=X86Quantizer(target))
    assert gemms(model) == ["quantized"] * count


def test_conv3d_has_no_kernel_in_inductor_and_says_so():
    report = explain(exported(nn.Conv3d(2, 4, 3), torch.randn(1, 2, 5, 6, 7)), X86Quantizer("inductor"))
    assert "inductor fuses convolutions over one or two axes" in report.ops[0].reason


@pytest.mark.parametrize("target", TARGETS)
def test_efficientnet_lite0_has_50_of_50_layers_quantized(target):
    image = load_images().images[:1]
    prepared = prepare_pt2e(exported(load_lite0(), image), X86Quantizer(target))
    states = [op.state for op in explain(prepared).ops if op.op.split(".")[1] in GEMMS]
    assert states == ["quantized"] * 50


def test_results_of_onednn_are_quantized_where_they_are_read_as_codes():
    model = LinearOnly()
    x = torch.randn(4, 8)
    assert len(quantizes(quantized(model, x, quantizer=X86Quantizer("onednn")))) == 2
    assert len(quantizes(quantized(model, x, quantizer=X86Quantizer("onednn", quantize_results=True)))) == 3


def test_a_residual_is_added_in_the_kernel_on_onednn_and_by_a_kernel_of_its_own_on_onnx_runtime():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

        def forward(self, x):
            y = torch.relu(self.first(x))
            return self.second(torch.relu(self.second(y) + y))

    x = torch.randn(1, 3, 6, 6)
    rows = {}
    for target in TARGETS:
        ops = explain(quantized(Residual(), x, quantizer=X86Quantizer(target))).ops
        rows[target] = [op.row for op in ops]
    assert rows["onednn"] == rows["inductor"]
    assert "conv_add_relu" in rows["onednn"]
    assert "add_relu" in rows["onnxruntime"]


def test_elementwise_ops_between_float_ops_stay_float_and_say_why():
    class Between(nn.Module):
        def forward(self, x):
            return torch.softmax(F.layer_norm(x, (8,)) + F.layer_norm(x * x, (8,)), -1)

    for target in TARGETS:
        report = explain(exported(Between(), torch.randn(4, 8)), X86Quantizer(target))
        reasons = {op.op.split(".")[1]: op.reason for op in report.ops if op.state == "float"}
        assert "is computed in float" in reasons["add"]
        assert "computes in float" in reasons["mul"]


class Products(nn.Module):
    def forward(self, x, y):
        return torch.matmul(x, y)


@pytest.mark.parametrize("named", ["operator", "function"])
def test_matmul_on_onednn_is_quantized_if_asked_for(named):
    inputs = torch.randn(2, 4, 8), torch.randn(2, 8, 4)
    config = get_default_x86_quantization_config()
    quantizer = X86Quantizer().set_global(config)
    states = [op.state for op in explain(exported(Products(), *inputs), quantizer).ops]
    assert states == ["float"]
    if named == "operator":
        quantizer.set_operator_type(torch.ops.aten.matmul, config)
    else:
        quantizer.set_function_type_qconfig(torch.matmul, config)
    states = [op.state for op in explain(exported(Products(), *inputs), quantizer).ops]
    assert states == ["quantized"]


def test_the_peers_methods_set_rules():
    config = get_default_x86_inductor_quantization_config()
    quantizer = X86InductorQuantizer().set_global(config)
    quantizer.set_module_name_qconfig("0", None).set_module_type_qconfig(nn.Linear, None)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Flatten(), nn.Linear(16, 2))
    assert gemms(quantized(model, torch.randn(1, 3, 2, 2), quantizer=quantizer)) == ["float", "quantized", "float"]
    functional = X86Quantizer().set_global(config).set_function_type_qconfig(F.linear, None)
    assert gemms(quantized(model, torch.randn(1, 3, 2, 2), quantizer=functional)) == ["quantized"] * 2 + ["float"]


def test_functions_without_an_op_are_refused():
    with pytest.raises(RuleError, match=r"no function with an op of its own.*torch\.matmul"):
        X86Quantizer().set_function_type_qconfig(lambda x: x, None)


def test_static_and_dynamic_layers_mix():
    quantizer = X86Quantizer().set_global(get_default_x86_quantization_config())
    quantizer.set_module_name("second", get_default_x86_quantization_config(is_dynamic=True))
    model = quantized(LinearOnly(), torch.randn(4, 8), quantizer=quantizer)
    targets = [
        str(node.target).split(".")[1] for node in model.graph.nodes if "quantized_decomposed" in str(node.target)
    ]
    assert targets.count("choose_qparams") == 1
    assert len(quantizes(model)) == 1
    assert gemms(model) == ["quantized"] * 2


@pytest.mark.parametrize("is_per_token", [False, True])
@pytest.mark.parametrize("target", TARGETS)
def test_dynamic_layers_need_no_calibration(target, is_per_token):
    config = get_default_x86_quantization_config(is_dynamic=True, is_per_token=is_per_token)
    x = torch.randn(3, 4, 8) * torch.tensor([1.0, 1.0, 100.0]).reshape(3, 1, 1)
    model = LinearOnly()
    converted = convert_pt2e(prepare_pt2e(exported(model, x), X86Quantizer(target).set_global(config)))
    assert gemms(converted) == ["quantized"] * 2
    noise = (converted(x) - model(x)).detach()[0].abs().max() / model(x).detach()[0].abs().max()
    assert (noise < 0.05) == is_per_token  # quiet rows keep their digits only with qparams of their own


def test_convolutions_have_no_dynamic_kernel_and_say_so():
    config = get_default_x86_quantization_config(is_dynamic=True)
    report = explain(exported(nn.Conv2d(3, 4, 3), torch.randn(1, 3, 6, 6)), X86Quantizer().set_global(config))
    assert "operand 'input' has a dynamic spec" in report.ops[0].reason


@pytest.mark.parametrize("target", TARGETS)
def test_weights_alone(target):
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.layer = nn.Embedding(10, 8), nn.Linear(8, 4)

        def forward(self, indices):
            return self.layer(self.table(indices))

    config = get_default_x86_quantization_config(is_weight_only=True)
    indices = torch.tensor([[1, 2, 9]])
    prepared = prepare_pt2e(exported(Words(), indices), X86Quantizer(target).set_global(config))
    model = convert_pt2e(prepared)
    assert explain(model).count("quantized") == 2
    assert not quantizes(model)
    assert [value.dtype for value in model.state_dict().values() if value.dim() == 2] == [torch.int8] * 2


@pytest.mark.parametrize("target", TARGETS)
def test_training_rounds_what_will_be_rounded(target):
    model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 4))
    x = torch.randn(4, 3, 6, 6)
    quantizer = X86Quantizer(target).set_global(get_default_x86_quantization_config(is_qat=True))
    prepared = prepare_qat_pt2e(torch.export.export(model.train(), (x,)).module(), quantizer)
    optimizer = torch.optim.SGD(prepared.parameters(), lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        prepared(x).square().sum().backward()
        optimizer.step()
    converted = convert_pt2e(prepared.eval())
    assert gemms(converted) == ["quantized"] * 2
    assert not [node for node in converted.graph.nodes if "batch_norm" in str(node.target)]


@pytest.mark.parametrize(("isa", "exact"), INSTRUCTION_SETS.items())
def test_weights_have_seven_bits_where_products_are_summed_with_loss(isa, exact):
    weight = get_default_x86_quantization_config(deployment_isa=isa).weight
    assert (weight.quant_min, weight.quant_max) == ((-127, 127) if exact else (-63, 63))
    asked = get_default_x86_quantization_config(reduce_range=exact, deployment_isa=isa).weight
    assert asked.quant_max == (63 if exact else 127)


def test_this_machine_decides_where_nothing_is_said():
    weight = get_default_x86_quantization_config().weight
    assert weight.quant_max == (127 if sums_are_exact() else 63)
    assert X86Quantizer().default_config().weight.quant_max == weight.quant_max


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"is_qat": True, "is_dynamic": True}, "is_qat=True"),
        ({"is_dynamic": True, "is_weight_only": True}, "choose one"),
        ({"is_per_token": True}, "needs is_dynamic=True"),
        ({"bits": 5}, "bits=5"),
        ({"bits": 4}, "is_weight_only=True"),
        ({"group_size": 32}, "is_weight_only=True"),
        ({"deployment_isa": "neon"}, "deployment_isa='neon'.*avx512_vnni"),
        ({"reduce_range": True, "deployment_isa": "neon"}, "deployment_isa='neon'"),
        ({"is_weight_only": True, "activation_observer": nn.Module}, "activations stay float"),
    ],
)
def test_contradictions_are_refused(arguments, words):
    with pytest.raises(RuleError, match=words):
        get_default_x86_quantization_config(**arguments)


def test_unknown_targets_are_refused():
    with pytest.raises(RuleError, match="target='cuda'; expected one of onednn, inductor, onnxruntime"):
        X86Quantizer("cuda")
