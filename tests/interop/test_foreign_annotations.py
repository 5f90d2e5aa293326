"""Annotations, specs and observers of any library are taken by structure, and the engine's own checks hold for them."""

import copy
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torchao.quantization.pt2e as torchao
from quantizers import CONFIG, SmallTable
from torch import nn
from torch._subclasses import FakeTensor
from torchao.quantization.pt2e import quantize_pt2e as their_engine
from torchao.quantization.pt2e import quantizer as theirs
from torchao_quantizers import KEY, Foreign, Net, OfTorchao, on_input, spec

import quantizer_sdk as q
from quantizer_sdk.control_flow import graphs_of
from quantizer_sdk.qdq import is_quantize

X = torch.randn(4, 8, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def exported(export):
    return export(Net(), X)


def weight_spec():
    return spec(torchao.PerChannelMinMaxObserver, low=-127, scheme=torch.per_channel_symmetric, ch_axis=0)


def every_kind(nodes):
    """Annotate with each of torchao's specs."""
    x, weight, bias, linear, sigmoid = (nodes[name] for name in ("x", "fc_weight", "fc_bias", "linear", "sigmoid"))

    def product(observers):
        (one, _), (other, _) = (observer.calculate_qparams() for observer in observers)
        return one * other, torch.zeros_like(other, dtype=torch.int32)

    whole = torch.iinfo(torch.int32)
    derived = theirs.DerivedQuantizationSpec(
        [(x, linear), (weight, linear)], product, torch.int32, whole.min, whole.max, torch.per_channel_symmetric, 0
    )
    linear.meta[KEY] = theirs.QuantizationAnnotation({x: spec(), weight: weight_spec(), bias: derived}, spec())
    sigmoid.meta[KEY] = theirs.QuantizationAnnotation(
        {linear: theirs.SharedQuantizationSpec(linear)},
        theirs.FixedQParamsQuantizationSpec(torch.int8, 1 / 256, -128, -128, 127, torch.per_tensor_affine),
    )


def quantizes(model):
    return [node for node in model.graph.nodes if is_quantize(node)]


# What is accepted


def test_each_of_torchaos_specs_means_the_same_here(exported, quantize):
    ours = quantize(exported, OfTorchao(every_kind), X)
    prepared = their_engine.prepare_pt2e(copy.deepcopy(exported), OfTorchao(every_kind))
    prepared(X)
    peer = their_engine.convert_pt2e(prepared)
    assert [node.args[1:] for node in quantizes(ours)] == [node.args[1:] for node in quantizes(peer)]
    stored = {tensor.dtype: tensor for tensor in ours.state_dict().values() if not tensor.is_floating_point()}
    assert stored[torch.int32].shape == (4,)  # the bias
    assert torch.equal(ours(X), peer(X))


def test_classes_of_no_library_will_do(exported, quantize):
    @dataclass
    class Note:
        input_qspec_map: dict = field(default_factory=dict)
        output_qspec: Any = None

    @dataclass
    class Spec:
        dtype: torch.dtype
        observer_or_fake_quant_ctr: Any = None
        quant_min: int | None = None
        quant_max: int | None = None
        qscheme: Any = torch.per_tensor_affine

    model = quantize(exported, Foreign(on_input(Spec(torch.uint8), Note)), X)
    (node,) = quantizes(model)
    assert node.args[3:] == (0, 255, torch.uint8)


def test_a_node_that_is_only_marked_has_no_spec(exported, quantize):
    def annotate(nodes):
        on_input(spec())(nodes)
        nodes["fc_weight"].meta[KEY] = theirs.QuantizationAnnotation(_annotated=True)
        nodes["sigmoid"].meta[KEY] = theirs.QuantizationAnnotation(None, None)

    assert len(quantizes(quantize(exported, Foreign(annotate), X))) == 1


def test_float32_asks_for_nothing(exported, quantize):
    def annotate(nodes):
        whole = theirs.QuantizationSpec(torch.float32, torchao.PlaceholderObserver)
        nodes["linear"].meta[KEY] = theirs.QuantizationAnnotation({nodes["x"]: spec(), nodes["fc_bias"]: whole}, None)

    model = quantize(exported, Foreign(annotate), X)
    assert len(quantizes(model)) == 1
    assert model.fc.bias.dtype == torch.float32


def test_torchs_older_types_of_codes(exported, quantize):
    model = quantize(exported, Foreign(on_input(spec(dtype=torch.quint8, low=0, high=255))), X)
    (node,) = quantizes(model)
    assert node.args[3:] == (0, 255, torch.uint8)


def test_its_wish_for_an_observer_of_its_own(export):
    class TwoReaders(nn.Module):
        def forward(self, x):
            return torch.sigmoid(x), torch.tanh(x)

    def annotate(nodes):
        for name in ("sigmoid", "tanh"):
            note = theirs.QuantizationAnnotation({nodes["x"]: spec()}, None, allow_implicit_sharing=name != "tanh")
            nodes[name].meta[KEY] = note

    prepared = q.prepare_pt2e(export(TwoReaders(), X), Foreign(annotate))
    assert sum(node.op == "call_module" and "post_process" in node.target for node in prepared.graph.nodes) == 2


def test_its_callback_may_replace_an_observer(exported, quantize):
    class Fixing(OfTorchao):
        def prepare_obs_or_fq_callback(self, model, edge_or_node_to_obs_or_fq):
            for point in edge_or_node_to_obs_or_fq:
                fixed = torchao.FixedQParamsObserver(0.5, 3, torch.int8, torch.per_tensor_affine, -128, 127)
                edge_or_node_to_obs_or_fq[point] = fixed

    (node,) = quantizes(quantize(exported, Fixing(on_input(spec())), X))
    assert node.args[1:3] == (0.5, 3)


def test_beside_a_quantizer_of_ours(export, quantize):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 4)

        def forward(self, x):
            return self.b(torch.sigmoid(self.a(x)))

    def annotate(nodes):
        given = theirs.QuantizationAnnotation(
            {nodes["x"]: spec(dtype=torch.uint8, low=0, high=255)}, None, _annotated=True
        )
        nodes["linear"].meta[KEY] = given

    both = q.ComposableQuantizer([OfTorchao(annotate), SmallTable().set_global(CONFIG)])
    assert [node.args[-1] for node in quantizes(quantize(export(Two(), X), both, X))] == [
        torch.uint8,
        *[torch.int8] * 2,
    ]

    both = theirs.ComposableQuantizer([OfTorchao(annotate)])  # their own way of it
    assert len(quantizes(quantize(export(Two(), X), both, X))) == 1

    def replace(nodes):
        nodes["linear"].meta[KEY] = theirs.QuantizationAnnotation()

    meddling = q.ComposableQuantizer([SmallTable().set_global(CONFIG), OfTorchao(replace)])
    with pytest.raises(q.InvalidAnnotationError, match="OfTorchao replaced the annotation"):
        q.prepare_pt2e(export(Two(), X), meddling)


def test_inside_control_flow(export):
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(8, 4)

        def forward(self, x):
            return torch.cond(x.sum() > 0, lambda y: torch.relu(self.fc(y)), lambda y: self.fc(-y), (x,))

    def annotate(nodes):
        if "linear" in nodes:
            linear = nodes["linear"]
            linear.meta[KEY] = theirs.QuantizationAnnotation({linear.args[0]: spec()}, spec())

    model = export(Branches(), X)
    prepared = q.prepare_pt2e(model, OfTorchao(annotate))
    q.calibrate(prepared, [X.abs(), -X.abs()])
    converted = q.convert_pt2e(prepared)
    found = [sum(is_quantize(node) for node in graph.graph.nodes) for _path, graph in graphs_of(converted)]
    assert found == [0, 2, 2]


def test_a_channel_axis_left_to_the_observer(exported, quantize):
    # Core ML's quantizer does so: fake quantizers of torchao have 0 for it, and take no None.
    fake = torchao.FakeQuantize.with_args(observer=torchao.MovingAveragePerChannelMinMaxObserver)

    def annotate(nodes):
        weight = spec(fake, low=-127, scheme=torch.per_channel_symmetric)
        nodes["linear"].meta[KEY] = theirs.QuantizationAnnotation({nodes["fc_weight"]: weight}, None)

    model = quantize(exported, OfTorchao(annotate), X)
    assert torch.equal(model.get_buffer("fc.weight_scale"), exported.fc.weight.abs().amax(1) / 127)


# What a quantizer does to the model, and looks for in it


def test_its_transform_may_compile_the_model(exported):
    class Compiling(OfTorchao):
        def transform_for_annotation(self, model):
            model.recompile()
            return model

    prepared = q.prepare_pt2e(exported, Compiling(on_input(spec())))
    prepared(X)
    assert "post_process" in prepared.code
    assert len(quantizes(q.convert_pt2e(prepared))) == 1


def test_its_transform_may_make_another_model(exported):
    class Remaking(OfTorchao):
        def transform_for_annotation(self, model):
            return torch.fx.GraphModule(model, model.graph)

    prepared = q.prepare_pt2e(exported, Remaking(on_input(spec())))
    assert "post_process" in prepared.code
    with pytest.raises(q.UnsupportedError, match="no training mode"):
        prepared.train()
    prepared(X)
    assert len(quantizes(q.convert_pt2e(prepared))) == 1


def test_a_folded_weight_has_an_example_value_as_of_export(export):
    seen = []

    def annotate(nodes):
        conv = nodes["conv2d"]
        seen.extend(operand.meta["val"] for operand in conv.all_input_nodes)
        conv.meta[KEY] = theirs.QuantizationAnnotation({conv.args[0]: spec()}, None)

    module = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4))
    q.prepare_pt2e(export(module, torch.randn(2, 3, 8, 8)), Foreign(annotate))
    assert [tuple(value.shape) for value in seen] == [(2, 3, 8, 8), (4, 3, 3, 3), (4,)]
    assert all(isinstance(value, FakeTensor) and value.device.type == "cpu" for value in seen)


def test_its_observers_live_where_the_model_does(export):
    with torch.device("meta"):
        model = export(Net(), torch.randn(4, 8))
    prepared = q.prepare_pt2e(model, OfTorchao(on_input(spec(torchao.HistogramObserver))))
    assert {buffer.device.type for buffer in prepared.buffers()} == {"meta"}


# The engine's own checks


def test_explain_names_what_it_left_float(exported):
    report = q.explain(exported, OfTorchao(on_input(spec())))
    assert {op.node: op.state for op in report.ops} == {"linear": "quantized", "sigmoid": "float"}


def test_observers_that_saw_no_data_are_named(exported):
    prepared = q.prepare_pt2e(exported, OfTorchao(on_input(spec(torchao.HistogramObserver))))
    with pytest.raises(q.UncalibratedError, match=r"1 of 1 observers have seen no data: .* on the output of x"):
        q.convert_pt2e(prepared)


def test_an_observer_that_chooses_no_qparams_is_named(exported):
    prepared = q.prepare_pt2e(exported, OfTorchao(on_input(spec(torchao.PlaceholderObserver))))
    prepared(X)
    with pytest.raises(q.CalibrationError, match=r"on the output of x .*PlaceholderObserver, fails to choose qparams"):
        q.convert_pt2e(prepared)


def test_an_observer_that_saw_nan_is_named(exported):
    prepared = q.prepare_pt2e(exported, OfTorchao(on_input(spec())))
    prepared(torch.full((4, 8), float("nan")))
    with pytest.raises(q.CalibrationError, match=r"on the output of x .*nan"):
        q.convert_pt2e(prepared)
