"""A layer and the batch norm behind it train as the layer that they will be: against the formula, written eagerly."""

import copy

import pytest
import torch
from quantizers import Apply, SmallTable, annotation, randomize_norms
from torch import nn
from torch.nn import functional

from quantizer_sdk import (
    ProductBiasSpec,
    QuantizationConfig,
    QuantizationSpec,
    Quantizer,
    convert_pt2e,
    explain,
    prepare_qat_pt2e,
)
from quantizer_sdk.fake_quantize import FakeQuantize, disable_observer
from quantizer_sdk.observers import (
    MinMaxObserver,
    MovingAverageMinMaxObserver,
    MovingAveragePerChannelMinMaxObserver,
    PerChannelMinMaxObserver,
)

aten = torch.ops.aten
LAYERS = {
    "conv1d": (lambda bias: nn.Conv1d(3, 4, 3, bias=bias), nn.BatchNorm1d, (2, 3, 9)),
    "conv2d": (lambda bias: nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=bias), nn.BatchNorm2d, (2, 3, 9, 9)),
    "conv3d": (lambda bias: nn.Conv3d(3, 4, 2, bias=bias), nn.BatchNorm3d, (2, 3, 5, 5, 5)),
    "conv1d_same": (lambda bias: nn.Conv1d(3, 4, 3, padding="same", bias=bias), nn.BatchNorm1d, (2, 3, 9)),
    "conv2d_same": (lambda bias: nn.Conv2d(3, 4, 3, padding="same", bias=bias), nn.BatchNorm2d, (2, 3, 7, 7)),
    "conv3d_same": (lambda bias: nn.Conv3d(3, 4, 3, padding="same", bias=bias), nn.BatchNorm3d, (2, 3, 4, 4, 4)),
    "grouped": (lambda bias: nn.Conv2d(4, 6, 3, groups=2, bias=bias), nn.BatchNorm2d, (2, 4, 7, 7)),
    "depthwise": (lambda bias: nn.Conv2d(4, 4, 3, groups=4, padding=1, bias=bias), nn.BatchNorm2d, (2, 4, 7, 7)),
    "transposed1d": (lambda bias: nn.ConvTranspose1d(3, 4, 3, bias=bias), nn.BatchNorm1d, (2, 3, 5)),
    "transposed2d": (lambda bias: nn.ConvTranspose2d(3, 4, 3, stride=2, bias=bias), nn.BatchNorm2d, (2, 3, 5, 5)),
    "transposed3d": (lambda bias: nn.ConvTranspose3d(3, 4, 2, bias=bias), nn.BatchNorm3d, (2, 3, 3, 3, 3)),
    "transposed_grouped": (lambda bias: nn.ConvTranspose2d(4, 6, 3, groups=2, bias=bias), nn.BatchNorm2d, (2, 4, 5, 5)),
    "linear": (lambda bias: nn.Linear(5, 4, bias=bias), nn.BatchNorm1d, (8, 5)),
}
AFTER = {
    "nothing": lambda y: y,
    "relu": torch.relu,
    "relu6": functional.relu6,
    "hardtanh": functional.hardtanh,
    "silu": functional.silu,
    "add": lambda y: y + 0.5 * y,
}
TARGETS = {
    aten.conv1d.default,
    aten.conv1d.padding,
    aten.conv2d.default,
    aten.conv2d.padding,
    aten.conv3d.default,
    aten.conv3d.padding,
    aten.conv_transpose1d.default,
    aten.conv_transpose2d.input,
    aten.conv_transpose3d.input,
    aten.linear.default,
}
KEY = "quantization_annotation"


def weight_axis(layer):
    return 1 if "Transpose" in type(layer).__name__ else 0


def activation_spec():
    observer = FakeQuantize.with_args(observer=MovingAverageMinMaxObserver, averaging_constant=0.1)
    return QuantizationSpec(torch.int8, observer, -128, 127, torch.per_tensor_affine)


def weight_spec(per_channel, axis):
    observer = MovingAveragePerChannelMinMaxObserver if per_channel else MovingAverageMinMaxObserver
    scheme = torch.per_channel_symmetric if per_channel else torch.per_tensor_symmetric
    factory = FakeQuantize.with_args(observer=observer, averaging_constant=1.0)
    return QuantizationSpec(torch.int8, factory, -127, 127, scheme, axis if per_channel else None)


class Layers(Quantizer):
    """Quantizes the input and the weight of each layer."""

    def __init__(self, per_channel, axis=0):
        self.activation, self.weight = activation_spec(), weight_spec(per_channel, axis)

    def annotate(self, model):
        for node in model.graph.nodes:
            if node.target in TARGETS:
                x, weight = node.args[:2]
                node.meta[KEY] = annotation({x: self.activation, weight: self.weight})
        return model


def network(kind, bias, after, **norm_options):
    make, norm, shape = LAYERS[kind]
    layer = make(bias)
    module = Apply(
        lambda self, x: AFTER[after](self.norm(self.layer(x))),
        layer=layer,
        norm=randomize_norms(norm(4 if kind not in {"grouped", "transposed_grouped"} else 6, **norm_options)),
    )
    return module, torch.randn(shape)


class Eager(nn.Module):
    """The formula: y = layer(fq(x), fq(W·γ/σ)) / (γ/σ) + b, then the norm."""

    def __init__(self, module, after, per_channel):
        super().__init__()
        self.layer, self.norm, self.after = copy.deepcopy(module.layer), copy.deepcopy(module.norm), AFTER[after]
        self.axis = weight_axis(self.layer)
        activation, weight = activation_spec(), weight_spec(per_channel, self.axis)
        self.round_x, self.round_weight = (
            spec.observer_or_fake_quant_ctr.with_args(
                dtype=torch.int8,
                quant_min=spec.quant_min,
                quant_max=spec.quant_max,
                qscheme=spec.qscheme,
                ch_axis=spec.ch_axis,
            )()
            for spec in (activation, weight)
        )

    def forward(self, x):
        norm, layer = self.norm, self.layer
        factor = (1 if norm.weight is None else norm.weight) / torch.sqrt(norm.running_var + norm.eps)
        shape = [1] * layer.weight.dim()
        groups = getattr(layer, "groups", 1)
        if self.axis == 0:
            shape[0] = -1
            spread = factor.reshape(shape)
        else:
            each = layer.weight.shape[0] // groups
            rows = [part.expand(each, -1) for part in factor.reshape(groups, -1)]
            spread = torch.cat(rows).reshape(*layer.weight.shape[:2], *[1] * (layer.weight.dim() - 2))
        weight = self.round_weight(layer.weight * spread)
        over = [1, -1] + [1] * (layer.weight.dim() - 2)
        y = self.call(self.round_x(x), weight) / factor.reshape(over)
        if layer.bias is not None:
            y = y + layer.bias.reshape(over)
        return self.after(norm(y))

    def call(self, x, weight):
        layer = self.layer
        if isinstance(layer, nn.Linear):
            return functional.linear(x, weight)
        if self.axis == 1:
            function = getattr(functional, f"conv_transpose{weight.dim() - 2}d")
            return function(
                x, weight, None, layer.stride, layer.padding, layer.output_padding, layer.groups, layer.dilation
            )
        function = getattr(functional, f"conv{weight.dim() - 2}d")
        return function(x, weight, None, layer.stride, layer.padding, layer.dilation, layer.groups)


def prepared_of(module, x, per_channel=True, mode=True):
    exported = torch.export.export(copy.deepcopy(module).train(mode), (x,)).module()
    return prepare_qat_pt2e(exported, Layers(per_channel, weight_axis(module.layer)))


def train(model, x, steps=3):
    """Train on a fixed target and return the losses."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for step in range(steps):
        optimizer.zero_grad()
        loss = (model(x * (1 + 0.1 * step)) - 0.3).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def check_training(module, x, after="nothing", per_channel=True, mode=True):
    """Train both forms alike; return the prepared one."""
    prepared, eager = prepared_of(module, x, per_channel, mode), Eager(module, after, per_channel).train()
    assert train(prepared, x) == pytest.approx(train(eager, x), rel=1e-5)
    state, expected = prepared.state_dict(), eager.state_dict()
    for name in ("layer.weight", "layer.bias", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var"):
        if name in expected:
            assert torch.allclose(state[name], expected[name], rtol=1e-4, atol=1e-5), name
    if "norm.num_batches_tracked" in expected:
        assert int(state["norm.num_batches_tracked"]) == int(expected["norm.num_batches_tracked"]) == 3
    prepared.eval()
    eager.eval()
    for model in (prepared, eager):
        model.apply(disable_observer)
    assert torch.allclose(prepared(x), eager(x), rtol=1e-4, atol=1e-5)
    assert int(prepared.state_dict()["norm.num_batches_tracked"]) == 3
    return prepared


def check_conversion(prepared, x):
    """The converted model computes what the trained one does in eval, and keeps nothing of the training."""
    prepared.eval()
    prepared.apply(disable_observer)
    with torch.no_grad():
        expected = prepared(x)
    converted = convert_pt2e(prepared)
    # The same codes of the same weights; division and addition of the norm's terms are rounded in another order.
    assert torch.allclose(converted(x), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()) + 1e-6)
    names = set(converted.state_dict())
    assert not [name for name in names if name.startswith("norm") or "tracked" in name or "process" in name]
    assert {name: converted.state_dict()[name].dtype for name in names if name.endswith(".weight")} == {
        "layer.weight": torch.int8
    }
    return converted


@pytest.mark.parametrize("per_channel", [True, False], ids=["per_channel", "per_tensor"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no_bias"])
@pytest.mark.parametrize("kind", LAYERS)
def test_every_layer_trains_by_the_formula_and_converts_to_what_it_trained(kind, bias, per_channel):
    module, x = network(kind, bias, "nothing", eps=1e-3, momentum=0.03)
    check_conversion(check_training(module, x, per_channel=per_channel), x)


@pytest.mark.parametrize("kind", ["conv2d", "linear"])
@pytest.mark.parametrize("after", AFTER)
def test_whatever_follows(kind, after):
    module, x = network(kind, True, after)
    check_conversion(check_training(module, x, after), x)


@pytest.mark.parametrize("kind", ["conv2d", "transposed2d", "linear"])
def test_a_norm_without_affine_parameters(kind):
    module, x = network(kind, True, "relu", affine=False)
    check_conversion(check_training(module, x, "relu"), x)


@pytest.mark.parametrize("kind", ["conv1d", "conv2d", "transposed2d", "linear"])
def test_a_model_exported_for_inference_trains_alike(kind):
    module, x = network(kind, True, "relu", eps=1e-3, momentum=0.03)
    check_conversion(check_training(module, x, "relu", mode=False), x)


def test_a_norm_without_statistics_stays_as_it_is_and_says_so():
    module, x = network("conv2d", True, "relu", track_running_stats=False)
    prepared = prepared_of(module, x)
    (norm,) = [op for op in explain(prepared).ops if "batch_norm" in op.op]
    assert norm.state == "float"
    assert "keeps no running statistics" in norm.reason
    train(prepared, x)
    prepared.eval()
    prepared.apply(disable_observer)
    assert torch.allclose(convert_pt2e(prepared)(x), prepared(x), atol=1e-5)


@pytest.mark.parametrize(("eps", "momentum"), [(1e-3, 0.03), (1e-5, 0.1), (0.5, 1.0)])
def test_eps_and_momentum_are_the_users(eps, momentum):
    module, x = network("conv2d", False, "nothing", eps=eps, momentum=momentum)
    prepared = prepared_of(module, x)
    (norm,) = [node for node in prepared.graph.nodes if node.target is aten.batch_norm.default]
    assert norm.args[6:8] == (momentum, eps)
    check_training(module, x)


def test_a_layer_that_feeds_others_too_is_not_fused_and_says_so():
    def run(self, x):
        hidden = self.layer(x)
        return self.norm(hidden) + hidden

    module = Apply(run, layer=nn.Conv2d(3, 3, 3, padding=1), norm=nn.BatchNorm2d(3))
    x = torch.randn(2, 3, 6, 6)
    prepared = prepared_of(module, x)
    (norm,) = [op for op in explain(prepared).ops if "batch_norm" in op.op]
    assert (norm.state, "also feeds add" in norm.reason) == ("float", True)
    losses = train(prepared, x)
    assert losses[-1] < losses[0]
    assert int(prepared.state_dict()["norm.num_batches_tracked"]) == 3
    prepared.eval()
    prepared.apply(disable_observer)
    converted = convert_pt2e(prepared)
    assert torch.allclose(converted(x), prepared(x), atol=1e-5)
    assert "norm.num_batches_tracked" not in converted.state_dict()


@pytest.mark.parametrize("same_norm", [True, False])
def test_a_layer_called_twice_with_its_norms(same_norm):
    def run(self, x):
        x = torch.relu(self.norm(self.layer(x)))
        return (self.norm if same_norm else self.other)(self.layer(x))

    layer = nn.Conv2d(3, 3, 3, padding=1)
    module = Apply(run, layer=layer, norm=nn.BatchNorm2d(3, momentum=0.2), other=nn.BatchNorm2d(3))
    x = torch.randn(2, 3, 6, 6)
    prepared = prepared_of(module, x)
    losses = train(prepared, x, steps=6)
    assert losses[-1] < losses[0]
    prepared.eval()
    prepared.apply(disable_observer)
    expected = prepared(x)
    converted = convert_pt2e(prepared)
    assert torch.allclose(converted(x), expected, atol=1e-5)
    assert not any(value.dim() == 4 and value.is_floating_point() for value in converted.state_dict().values())


def test_a_weight_shared_with_a_layer_without_norm():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

        def forward(self, x):
            return self.norm(self.layer(x)) + functional.conv2d(x, self.layer.weight, None, padding=1)

    x = torch.randn(2, 3, 6, 6)
    prepared = prepared_of(Shared(), x)
    reference = Shared()
    assert {name for name, _ in prepared.named_parameters()} == {name for name, _ in reference.named_parameters()}
    train(prepared, x)
    prepared.eval()
    prepared.apply(disable_observer)
    assert torch.allclose(convert_pt2e(prepared)(x), prepared(x), atol=1e-5)


BIAS_CONFIG = QuantizationConfig(
    QuantizationSpec(torch.int8, MinMaxObserver, -128, 127, torch.per_tensor_affine),
    QuantizationSpec(torch.int8, MinMaxObserver, -128, 127, torch.per_tensor_affine),
    QuantizationSpec(torch.int8, PerChannelMinMaxObserver, -127, 127, torch.per_channel_symmetric, 0),
    ProductBiasSpec(),
)


@pytest.mark.parametrize("bias", [True, False])
def test_the_bias_that_folding_makes_is_quantized_where_the_annotation_asks_for_it(bias):
    module = nn.Sequential(nn.Conv2d(3, 4, 3, bias=bias), randomize_norms(nn.BatchNorm2d(4)), nn.ReLU())
    x = torch.randn(2, 3, 6, 6)
    exported = torch.export.export(module.train(), (x,)).module()
    prepared = prepare_qat_pt2e(exported, SmallTable().set_global(BIAS_CONFIG))
    for _ in range(2):
        prepared(x)
    prepared.eval()
    prepared.apply(disable_observer)
    expected = prepared(x)
    converted = convert_pt2e(prepared)
    assert converted.state_dict()["0.bias"].dtype == torch.int32
    (last,) = converted.graph.find_nodes(op="output")[0].all_input_nodes
    assert (converted(x) - expected).abs().max() <= 1.01 * last.args[1]
    assert {name.split(".")[0] for name in converted.state_dict()} == {"0"}


def test_the_users_model_is_not_trained():
    module, x = network("conv2d", True, "relu")
    exported = torch.export.export(module.train(), (x,)).module()
    before = {name: value.clone() for name, value in exported.state_dict().items()}
    code = exported.code
    train(prepare_qat_pt2e(exported, Layers(per_channel=True)), x)
    assert all(torch.equal(before[name], value) for name, value in exported.state_dict().items())
    assert exported.code == code


def test_batch_and_image_size_may_differ_from_those_of_export():
    module = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))
    dims = {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    exported = torch.export.export(module.train(), (torch.randn(4, 3, 8, 8),), dynamic_shapes=(dims,)).module()
    prepared = prepare_qat_pt2e(exported, SmallTable().set_global(BIAS_CONFIG))
    for shape in ((2, 3, 6, 6), (7, 3, 12, 10)):
        prepared(torch.randn(shape)).sum().backward()
    prepared.eval()
    x = torch.randn(3, 3, 9, 9)
    with torch.no_grad():
        prepared(x)
        prepared.apply(disable_observer)
        assert (convert_pt2e(prepared)(x) - prepared(x)).abs().max() < 1e-5
