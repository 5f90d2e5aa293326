"""Every figure of `compare` against the same computed by numpy."""

import io
import math
import weakref

import numpy as np
import pytest
import torch
from quantizers import CONFIG, LINEAR, SmallTable
from torch import nn
from torch.fx import Interpreter

from quantizer_sdk import Row, Step, calibrate, compare, convert_pt2e, ops, prepare_pt2e, prepare_qat_pt2e
from quantizer_sdk.backends.xnnpack import XNNPACKQuantizer, get_symmetric_quantization_config
from quantizer_sdk.qdq import is_quantize


class InPlaceTable(SmallTable):
    rows = (Row("linear_relu_", (LINEAR, Step(ops(torch.ops.aten.relu_.default)))), *SmallTable.rows)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 16), nn.Linear(16, 5)

    def forward(self, x):
        return self.second(torch.sigmoid(self.first(x)))


def quantize(export, net, batches):
    model = export(net, batches[0])
    prepared = prepare_pt2e(model, SmallTable().set_global(CONFIG))
    calibrate(prepared, batches)
    return model, prepared, convert_pt2e(prepared)


@pytest.fixture
def graphs(export):
    torch.manual_seed(0)
    batches = [torch.randn(7, 6) for _ in range(3)]
    return (*quantize(export, Net().eval(), batches), batches)


def rounded(converted, value, name):
    """What a converted graph rounds a value to at the quantize of this node, in float64."""
    (node,) = [it for it in converted.graph.nodes if is_quantize(it) and it.args[0].name == name]
    _, scale, zero_point, low, high, _ = node.args
    return (np.clip(np.round(value / scale) + zero_point, low, high) - zero_point) * scale, scale


def db(reference, actual):
    return 10 * math.log10((reference**2).sum() / ((reference - actual) ** 2).sum())


def weights_of(converted, name):
    """The dequantized weight and the bias that a linear layer of a converted graph reads, in float64."""
    (layer,) = [it for it in converted.graph.nodes if it.name == name]
    dequantize = layer.args[1]
    codes, scale = (
        getattr(converted.get_submodule(it.target.rpartition(".")[0]), it.target.rpartition(".")[2])
        for it in dequantize.args[:2]
    )
    bias = layer.args[2]
    module, _, attribute = bias.target.rpartition(".")
    return codes.double().numpy() * scale.double().numpy()[:, None], getattr(
        converted.get_submodule(module), attribute
    ).detach().double().numpy()


class Recorder(Interpreter):
    def __init__(self, module):
        super().__init__(module)
        self.seen = {}

    def run_node(self, n):
        value = super().run_node(n)
        if isinstance(value, torch.Tensor):
            self.seen.setdefault(n.name, []).append(value.detach().double().numpy())
        return value


def recorded(model, batches):
    recorder = Recorder(model)
    for batch in batches:
        recorder.run(batch)
    return {name: np.concatenate(values) for name, values in recorder.seen.items() if values[0].ndim}


def test_built_up_figures_are_those_of_both_graphs_run_apart(graphs):
    model, _prepared, converted, batches = graphs
    floats, quantized = recorded(model, batches), recorded(converted, batches)
    layers = {layer.node: layer for layer in compare(model, converted, batches).layers}
    assert list(layers) == ["x", "linear", "sigmoid", "linear_1"]
    for name, layer in layers.items():
        (quantize_node,) = [it for it in converted.graph.nodes if is_quantize(it) and it.args[0].name == name]
        real = quantized[next(iter(quantize_node.users)).name]
        reference = floats[name]
        assert layer.sqnr == pytest.approx(db(reference, real), abs=1e-4)
        assert layer.mse == pytest.approx(((reference - real) ** 2).mean(), rel=1e-5)
        cosine = (reference * real).sum() / math.sqrt((reference**2).sum() * (real**2).sum())
        assert layer.cosine == pytest.approx(cosine, abs=1e-7)
        largest = np.abs(reference - real).max() / quantize_node.args[1]
        assert layer.max_error_lsb == pytest.approx(largest, rel=1e-5)
        assert layer.rounded


def test_own_error_is_the_layers_alone(graphs):
    model, _prepared, converted, batches = graphs
    floats = recorded(model, batches)
    layers = {layer.node: layer for layer in compare(model, converted, batches).layers}
    own = {"x": rounded(converted, floats["x"], "x")[0]}
    weight, bias = weights_of(converted, "linear")
    own["linear"] = rounded(converted, floats["x"] @ weight.T + bias, "linear")[0]
    own["sigmoid"] = rounded(converted, 1 / (1 + np.exp(-floats["linear"])), "sigmoid")[0]
    weight, bias = weights_of(converted, "linear_1")
    own["linear_1"] = rounded(converted, floats["sigmoid"] @ weight.T + bias, "linear_1")[0]
    ratios = {}
    for name, actual in own.items():
        assert layers[name].own_sqnr == pytest.approx(db(floats[name], actual), abs=1e-3)
        ratios[name] = 10 ** (-db(floats[name], actual) / 10)
    for name, ratio in ratios.items():
        assert layers[name].blame == pytest.approx(ratio / sum(ratios.values()), rel=1e-3)


def test_outputs_are_those_of_the_models_themselves(graphs):
    model, _prepared, converted, batches = graphs
    reference = torch.cat([model(batch) for batch in batches]).detach().double().numpy()
    actual = torch.cat([converted(batch) for batch in batches]).detach().double().numpy()
    (output,) = compare(model, converted, batches).outputs
    assert output.sqnr == pytest.approx(db(reference, actual), abs=1e-4)
    assert output.mse == pytest.approx(((reference - actual) ** 2).mean(), rel=1e-5)


def test_a_prepared_model_is_compared_as_convert_will_round_it(graphs):
    model, prepared, converted, batches = graphs
    assert compare(model, prepared, batches) == compare(model, converted, batches)


def test_a_model_for_training_is_compared_as_its_fake_quantizers_round(export):
    torch.manual_seed(0)
    batches = [torch.randn(7, 6) for _ in range(3)]
    model = export(Net(), batches[0])
    prepared = prepare_qat_pt2e(model, SmallTable().set_global(CONFIG))
    for batch in batches:
        prepared(batch)
    prepared.eval()
    reference = torch.cat([model(batch) for batch in batches]).detach().double().numpy()
    actual = torch.cat([prepared(batch) for batch in batches]).detach().double().numpy()
    found = compare(model, prepared, batches)
    assert found.outputs[0].sqnr == pytest.approx(db(reference, actual), abs=1e-3)
    assert [layer.node for layer in found.layers] == ["x", "linear", "sigmoid", "linear_1"]


def test_without_blame_one_run_less(graphs):
    model, _prepared, converted, batches = graphs
    found, full = (compare(model, converted, batches, blame=blame) for blame in (False, True))
    assert [layer.sqnr for layer in found.layers] == [layer.sqnr for layer in full.layers]
    assert all(layer.own_sqnr is None and layer.blame is None for layer in found.layers)
    assert [layer.sqnr for layer in found.ranked()] == sorted(layer.sqnr for layer in found.layers)


class Chain(nn.Module):
    """Convolutions with a batch norm and a clamp, and moves of elements between them and the end."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)
        self.fc = nn.Linear(8 * 4, 5)
        nn.init.uniform_(self.norm.running_var, 0.5, 2)
        nn.init.normal_(self.norm.bias)

    def forward(self, x):
        y = torch.max_pool2d(torch.relu(self.norm(self.conv(x))), 2)
        return self.fc(y.permute(0, 2, 3, 1).reshape(-1, 32))


def test_a_layer_is_what_one_kernel_computes(export):
    torch.manual_seed(0)
    images = [torch.randn(2, 3, 6, 6) for _ in range(3)]
    model, _prepared, converted = quantize(export, Chain().eval(), images)
    floats = recorded(model, images)
    layers = {layer.node: layer for layer in compare(model, converted, images).layers}
    assert list(layers) == ["x", "conv2d", "linear"]  # what only moves codes is none
    conv, linear = layers["conv2d"], layers["linear"]
    assert (conv.members, conv.twin, conv.module, conv.op) == (
        ("conv2d", "relu"),
        "relu",
        "conv",
        "aten.conv2d.default",
    )
    assert "torch.relu(self.norm(self.conv(x)))" in conv.source
    assert linear.module == "fc"
    # Rounding to the grid that its operand is on already is none of its own errors.
    weight, bias = weights_of(converted, "linear")
    actual = rounded(converted, floats["reshape"] @ weight.T + bias, "linear")[0]
    assert linear.own_sqnr == pytest.approx(db(floats["linear"], actual), abs=1e-3)


def test_an_op_in_place_is_one_like_any_other(export):
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(6, 9)

        def forward(self, x):
            return self.fc(x).relu_()

    torch.manual_seed(0)
    batches = [torch.randn(7, 6) for _ in range(3)]
    model = export(InPlace(), batches[0])
    prepared = prepare_pt2e(model, InPlaceTable().set_global(CONFIG))
    calibrate(prepared, batches)
    converted = convert_pt2e(prepared)
    (_x, layer) = compare(model, converted, batches).layers
    weight, bias = weights_of(converted, "linear")
    reference = torch.cat([model(batch) for batch in batches]).detach().double().numpy()
    pre = torch.cat(batches).double().numpy() @ weight.T + bias
    assert layer.members == ("linear", "relu_")
    actual = rounded(converted, np.maximum(pre, 0), "relu_")[0]
    assert layer.own_sqnr == pytest.approx(db(reference, actual), abs=1e-3)


def test_float_layers_are_exact_and_bear_no_blame(export):
    torch.manual_seed(0)
    batches = [torch.randn(7, 6) for _ in range(3)]
    model = export(Net().eval(), batches[0])
    prepared = prepare_pt2e(model, SmallTable().set_global(CONFIG).set_module_name("second", None))
    calibrate(prepared, batches)
    layers = {layer.node: layer for layer in compare(model, prepared, batches).layers}
    for name in ("sigmoid", "linear_1"):
        assert not layers[name].rounded
        assert (layers[name].own_sqnr, layers[name].blame, layers[name].max_error_lsb) == (math.inf, 0.0, None)
        assert layers[name].sqnr < 60


def test_two_calls_of_one_module_are_two_layers(export):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(6, 6)

        def forward(self, x):
            return self.fc(torch.sigmoid(self.fc(x)))

    torch.manual_seed(0)
    batches = [torch.randn(7, 6) for _ in range(3)]
    model, _prepared, converted = quantize(export, Twice().eval(), batches)
    layers = compare(model, converted, batches).layers
    assert [layer.node for layer in layers if layer.module == "fc"] == ["linear", "linear_1"]
    assert layers[1].own_sqnr != layers[3].own_sqnr


def test_noise_is_pooled_over_batches_however_they_are_cut(graphs):
    model, _prepared, converted, batches = graphs
    whole = compare(model, converted, batches)
    twice = compare(model, converted, [*batches, *batches])
    assert (whole.batches, twice.batches) == (3, 6)
    for one, other in zip(whole.layers, twice.layers, strict=True):
        assert one.sqnr == pytest.approx(other.sqnr, abs=1e-9)
        assert one.max_error_lsb == other.max_error_lsb


def test_a_scale_that_is_too_large_is_ranked_first(graphs):
    model, prepared, _converted, batches = graphs
    for node in prepared.graph.nodes:
        if node.op == "call_module" and node.args[0].name == "sigmoid":
            observer = prepared.get_submodule(node.target)
            observer.max_val = observer.max_val * 8
    (worst, *_rest) = compare(model, prepared, batches).ranked()
    assert worst.node == "sigmoid"
    assert worst.unused_bits == pytest.approx(3, abs=0.05)
    assert worst.blame > 0.9


def test_weights_of_which_few_codes_are_used_are_blamed(graphs):
    model, prepared, converted, batches = graphs
    (layer,) = [node for node in prepared.graph.nodes if node.name == "linear"]
    observer = prepared.get_submodule(layer.args[1].target)
    observer.min_val, observer.max_val = observer.min_val * 8, observer.max_val * 8
    before, after = (compare(model, it, batches).layer("linear") for it in (converted, prepared))
    assert (before.unused_bits, after.unused_bits) == (pytest.approx(0, abs=0.05), pytest.approx(3, abs=0.05))
    coarse = convert_pt2e(prepared)
    (layer,) = [node for node in coarse.graph.nodes if node.name == "linear"]
    codes = coarse.get_submodule("first").get_buffer(layer.args[1].args[0].target.rpartition(".")[2])
    assert after.unused_bits == pytest.approx(math.log2(127 / codes.abs().max().item()))
    assert before.blame < 0.5 < after.blame


def test_a_model_that_was_saved_and_loaded_has_the_same_layers(graphs):
    model, _prepared, converted, batches = graphs
    file = io.BytesIO()
    torch.export.save(torch.export.export(converted, (batches[0],)), file)
    file.seek(0)
    loaded = compare(model, torch.export.load(file).module(), batches)
    found = compare(model, converted, [{"x": batch} for batch in batches])  # by keyword, for once
    assert [layer.op for layer in loaded.layers] == [layer.op for layer in found.layers]
    assert [layer.own_sqnr for layer in loaded.layers] == [layer.own_sqnr for layer in found.layers]


def test_a_value_of_another_shape_is_compared_element_by_element(export):
    class Pooled(nn.Module):
        def forward(self, x):
            return x.mean((2, 3))

    torch.manual_seed(0)
    images = [torch.randn(2, 3, 5, 5) for _ in range(2)]
    model = export(Pooled(), images[0])
    prepared = prepare_pt2e(model, XNNPACKQuantizer().set_global(get_symmetric_quantization_config()))
    calibrate(prepared, images)  # XNNPACK keeps the axes, and drops them afterwards
    (_x, layer) = compare(model, prepared, images).layers
    reference = torch.cat([model(image) for image in images]).double().numpy()
    assert layer.twin == "mean"
    actual = rounded(convert_pt2e(prepared), reference, layer.node)[0]
    assert layer.own_sqnr == pytest.approx(db(reference, actual), abs=1e-3)


def test_values_go_as_soon_as_nobody_reads_them(export):
    class Deep(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(*(nn.Linear(37, 37) for _ in range(40)))

        def forward(self, x):
            return self.layers(x)

    batches = [torch.randn(5, 37)]
    model, _prepared, converted = quantize(export, Deep().eval(), batches)
    made, most = weakref.WeakValueDictionary(), 0

    class Counting(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal most
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor) and result.shape == (5, 37):
                made[id(result)] = result
            most = max(most, len(made))
            return result

    with Counting():
        compare(model, converted, batches)
    assert 3 <= most <= 12  # of the 41 values that each of three runs has


def test_equal_infinities_are_no_noise(export):
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x):
            y = self.fc(x)
            return torch.softmax(y + torch.tensor([0.0, -math.inf, 0.0, 0.0]), -1), y

    torch.manual_seed(0)
    batches = [torch.randn(3, 4)]
    model = export(Masked().eval(), batches[0])
    prepared = prepare_pt2e(model, SmallTable().set_operator_type(torch.ops.aten.linear.default, CONFIG))
    calibrate(prepared, batches)
    layers = {layer.node: layer for layer in compare(model, prepared, batches, histograms=True).layers}
    assert 20 < layers["add"].sqnr < 80
    assert 20 < layers["softmax"].sqnr < 80


def test_the_models_stay_as_they_are(graphs):
    model, prepared, converted, batches = graphs

    def state():
        return [
            (it.graph.__str__(), {k: v.clone() for k, v in it.state_dict().items()})
            for it in (model, prepared, converted)
        ]

    before = state()
    compare(model, prepared, batches)
    compare(model, converted, batches)
    for (text, tensors), (other, others) in zip(before, state(), strict=True):
        assert text == other
        assert all(torch.equal(tensors[name], others[name]) for name in others)
