"""Defects of torchao's engine, run beside ours: each test shows what the peer does, and that ours does not.

The peer's half is what was found with torchao 0.18 on torch 2.13; where a later release mends it, the assertion about
the peer fails, and is to be deleted.
"""

import copy
import io

import pytest
import torch
import torchao.quantization.pt2e as their_observers
import torchao.quantization.pt2e.quantize_pt2e as their_engine
import torchao.quantization.pt2e.quantizer as theirs
from quantizers import CONFIG, SmallTable
from torch import nn
from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as their_x86

import quantizer_sdk as ours
import quantizer_sdk.observers as our_observers
from quantizer_sdk import quantize_pt2e as our_engine

aten = torch.ops.aten
KEY = "quantization_annotation"
X = torch.randn(2, 4)
IMAGE = torch.randn(2, 3, 8, 8)


@pytest.fixture(params=["ours", "theirs"])
def side(request):
    """Each test runs once for each engine."""
    return request.param


def kit(side):
    """Return an engine with the specs and observers that belong to it."""
    return (our_engine, ours, our_observers) if side == "ours" else (their_engine, theirs, their_observers)


def quantizer_of(side, annotate):
    """Return a quantizer that calls `annotate` with the graph's nodes by name."""
    base = ours.Quantizer if side == "ours" else theirs.Quantizer

    class Annotating(base):
        def annotate(self, model):
            annotate({node.name: node for node in model.graph.nodes})
            return model

        def validate(self, model):
            pass

    return Annotating()


def spec(side, dtype=torch.int8, observer="MinMaxObserver", scheme=torch.per_tensor_affine, **fields):
    _engine, specs, observers = kit(side)
    ends = {torch.int8: (-128, 127), torch.uint8: (0, 255)}.get(dtype, (None, None))
    constructor = getattr(observers, observer) if isinstance(observer, str) else observer
    return specs.QuantizationSpec(dtype, constructor, *ends, scheme, **fields)


def annotation(side, inputs=(), output=None, **options):
    _engine, specs, _observers = kit(side)
    return specs.QuantizationAnnotation(dict(inputs), output, _annotated=True, **options)


def exported(module, *inputs):
    return torch.export.export(module.eval(), inputs).module()


def quantized(side, model, annotate, *inputs):
    engine, _specs, _observers = kit(side)
    prepared = engine.prepare_pt2e(model, quantizer_of(side, annotate))
    prepared(*inputs)
    return prepared, engine.convert_pt2e(prepared)


def quantizes(model):
    return [node for node in model.graph.nodes if ".quantize_per" in str(node.target)]


# 5.1 A quantizer that matches nothing converts in silence


class CustomConv(nn.Conv2d):
    """As EfficientNet-Lite's convolutions are: a subclass."""


def test_a_quantizer_that_matches_nothing(side):
    model = exported(nn.Sequential(CustomConv(3, 4, 3), nn.ReLU()), IMAGE)
    if side == "theirs":
        config = their_x86.get_default_x86_inductor_quantization_config()
        prepared = their_engine.prepare_pt2e(model, their_x86.X86InductorQuantizer().set_global(config))
        prepared(IMAGE)
        assert quantizes(their_engine.convert_pt2e(prepared)) == []
        return
    prepared = ours.prepare_pt2e(model, SmallTable().set_global(CONFIG))
    prepared(IMAGE)
    assert len(quantizes(ours.convert_pt2e(prepared))) == 2
    with pytest.raises(ours.NothingAnnotatedError, match=r"aten\.elu"):
        ours.prepare_pt2e(exported(nn.ELU(), X), SmallTable().set_global(CONFIG))


def test_a_forward_under_no_grad(side):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4)

        @torch.no_grad()
        def forward(self, x):
            return self.fc(x)

    def annotate(nodes):
        for node in nodes.values():
            if node.target is aten.linear.default:
                node.meta[KEY] = annotation(side, {node.args[0]: spec(side)}, spec(side))

    model = exported(Net(), X)
    if side == "theirs":
        _prepared, converted = quantized(side, model, annotate, X)
        assert quantizes(converted) == []
    else:
        _prepared, converted = quantized(side, model, annotate, X)
        assert len(quantizes(converted)) == 2


# 5.3 Batch norm folded where its layer has other readers, or shares its weight


class TwoReaders(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x):
        hidden = self.conv(x)
        return self.norm(hidden) + hidden


class SharedLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.other = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x):
        return self.other(self.conv(self.norm(self.conv(x))))


@pytest.mark.parametrize("make", [TwoReaders, SharedLayer])
def test_batch_norm_folds_to_the_same_numbers(side, make):
    torch.manual_seed(0)
    module = make()
    for norm in (child for child in module.modules() if isinstance(child, nn.BatchNorm2d)):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.25, 4)
    model = exported(module, IMAGE)
    expected = module(IMAGE)

    def annotate(nodes):
        (last,) = nodes["output"].all_input_nodes
        last.meta[KEY] = annotation(side, {}, spec(side))

    engine, _specs, _observers = kit(side)
    error = (engine.prepare_pt2e(model, quantizer_of(side, annotate))(IMAGE) - expected).abs().max()
    assert error > 0.5 if side == "theirs" else error < 1e-5


# 5.4 Sharing depends on order and direction


def sharing(side, references, own):
    """Return an annotate function: shared specs from point to point, and one spec of its own."""
    _engine, specs, _observers = kit(side)

    def annotate(nodes):
        for node, target in references.items():
            nodes[node].meta[KEY] = annotation(side, {}, specs.SharedQuantizationSpec(nodes[target]))
        if own:
            nodes[own].meta[KEY] = annotation(side, {}, spec(side))

    return annotate


class Chain(nn.Module):
    def forward(self, x):
        return torch.tanh(torch.sigmoid(torch.relu(x)))


def test_a_reference_that_points_forward(side):
    annotate = sharing(side, {"relu": "sigmoid"}, own="sigmoid")
    if side == "theirs":
        with pytest.raises(Exception):  # noqa: B017, PT011  # whatever it is, it names no node
            quantized(side, exported(Chain(), X), annotate, X)
        return
    _prepared, converted = quantized(side, exported(Chain(), X), annotate, X)
    assert len({node.args[1:] for node in quantizes(converted)}) == 1


def test_references_in_a_circle(side):
    annotate = sharing(side, {"relu": "sigmoid", "sigmoid": "tanh", "tanh": "relu"}, own=None)
    if side == "theirs":
        with pytest.raises((RecursionError, AssertionError)):
            quantized(side, exported(Chain(), X), annotate, X)
        return
    with pytest.raises(ours.SharingError, match=r"\[output of relu\] - \[output of sigmoid\] - \[output of tanh\]"):
        quantized(side, exported(Chain(), X), annotate, X)


# 5.5 ch_axis counts only for observers whose class is named PerChannel


def test_the_channel_axis_of_an_observer_of_any_name(side):
    _engine, _specs, observers = kit(side)

    class Renamed(observers.PerChannelMinMaxObserver):
        pass

    Renamed.__name__ = "EveryColumn"
    by_column = spec(side, observer=Renamed, scheme=torch.per_channel_affine, ch_axis=1)

    def annotate(nodes):
        nodes["sin"].meta[KEY] = annotation(side, {nodes["sin"].args[0]: by_column}, None)

    class Sine(nn.Module):
        def forward(self, x):
            return torch.sin(x)

    _prepared, converted = quantized(side, exported(Sine(), X), annotate, X)
    (node,) = quantizes(converted)
    assert node.args[3] == (0 if side == "theirs" else 1)


# 5.6 What an annotation says and nobody reads


def test_a_consumer_that_wants_an_observer_of_its_own(side):
    class TwoReaders(nn.Module):
        def forward(self, x):
            return torch.sigmoid(x), torch.tanh(x)

    def annotate(nodes):
        for name in ("sigmoid", "tanh"):
            alone = name == "tanh"
            nodes[name].meta[KEY] = annotation(side, {nodes["x"]: spec(side)}, None, allow_implicit_sharing=not alone)

    _prepared, converted = quantized(side, exported(TwoReaders(), X), annotate, X)
    assert len(quantizes(converted)) == (1 if side == "theirs" else 2)


def test_a_tensor_given_by_keyword(side):
    class Net(nn.Module):
        def forward(self, x, y):
            return x + y

    model = exported(Net(), X, 2 * X)
    (add,) = [node for node in model.graph.nodes if node.target is aten.add.Tensor]
    x, y = add.args
    add.args, add.kwargs = (x,), {"other": y}
    model.recompile()

    def annotate(nodes):
        nodes["add"].meta[KEY] = annotation(side, {nodes["x"]: spec(side), nodes["y"]: spec(side)}, None)

    if side == "theirs":
        with pytest.raises(AssertionError, match="not supported for annotation"):
            quantized(side, model, annotate, X, 2 * X)
        return
    _prepared, converted = quantized(side, model, annotate, X, 2 * X)
    assert len(quantizes(converted)) == 2


def test_an_observer_that_saw_no_data(side):
    engine, _specs, _observers = kit(side)

    def annotate(nodes):
        nodes["relu"].meta[KEY] = annotation(side, {}, spec(side))

    prepared = engine.prepare_pt2e(exported(Chain(), X), quantizer_of(side, annotate))
    if side == "theirs":
        (node,) = quantizes(engine.convert_pt2e(prepared))
        assert node.args[1] == 1.0
        return
    with pytest.raises(ours.UncalibratedError, match="relu"):
        engine.convert_pt2e(prepared)


# 5.7 A deepcopy of a prepared model


def test_a_deepcopy_of_a_prepared_model_holds_nothing_of_the_old_graph(side):
    engine, _specs, _observers = kit(side)

    def annotate(nodes):
        nodes["relu"].meta[KEY] = annotation(side, {nodes["x"]: spec(side)}, spec(side))

    prepared = engine.prepare_pt2e(exported(Chain(), X), quantizer_of(side, annotate))
    other = copy.deepcopy(prepared)
    held = {
        producer
        for node in other.graph.nodes
        for producer in getattr(node.meta.get(KEY), "input_qspec_map", None) or ()
    }
    strangers = held - set(other.graph.nodes)
    assert bool(strangers) == (side == "theirs")
    for mode in ("train", "eval"):
        if side == "theirs":
            with pytest.raises(NotImplementedError):
                getattr(prepared, mode)()
            getattr(other, mode)()  # the guard is lost
    if side == "ours":
        for model in (prepared, other):
            model.eval()
            with pytest.raises(ours.UnsupportedError, match="no training mode"):
                model.train()


# 5.8 What a converted model keeps of the float one


def test_hooks_stay_and_the_float_weight_is_gone(side):
    weight = {
        "ours": ours.QuantizationSpec(torch.int8, None, -127, 127, torch.per_tensor_symmetric),
        "theirs": theirs.QuantizationSpec(
            torch.int8, their_observers.MinMaxObserver, -127, 127, torch.per_tensor_symmetric
        ),
    }[side]

    def annotate(nodes):
        nodes["linear"].meta[KEY] = annotation(side, {nodes["input_1"]: spec(side), nodes["weight"]: weight}, None)

    model = exported(nn.Linear(4, 4), X)
    calls = []
    model.register_forward_pre_hook(lambda _module, _args: calls.append(1))
    _prepared, converted = quantized(side, model, annotate, X)
    calls.clear()
    converted(X)
    floats = [name for name, value in converted.state_dict().items() if value.dim() == 2 and value.is_floating_point()]
    assert floats == []
    assert calls == ([] if side == "theirs" else [1])


def test_export_guards_do_not_stay_in_the_converted_graph(side):
    def annotate(nodes):
        nodes["relu"].meta[KEY] = annotation(side, {}, spec(side))

    model = exported(Chain(), X)
    assert any(node.target == "_guards_fn" for node in model.graph.nodes)
    _prepared, converted = quantized(side, model, annotate, X)
    left = [node for node in converted.graph.nodes if node.op == "call_module"]
    assert bool(left) == (side == "theirs")
    if side == "ours":  # and its meaning stays where users calibrate: a wrong shape is named
        prepared = ours.prepare_pt2e(exported(Chain(), X), _fixed())
        with pytest.raises((AssertionError, RuntimeError), match=r"x.size\(\)\[0\] == 2"):
            prepared(torch.randn(5, 4))


def _fixed():
    def annotate(nodes):
        fixed = ours.FixedQParamsQuantizationSpec(torch.uint8, 1 / 256, 0)
        nodes["relu"].meta[KEY] = annotation("ours", {}, fixed)

    return quantizer_of("ours", annotate)


# 5.10 Data and types that calibration meets


def test_nan_in_calibration_names_the_layer(side):
    engine, _specs, _observers = kit(side)

    def annotate(nodes):
        nodes["relu"].meta[KEY] = annotation(side, {}, spec(side, observer="HistogramObserver"))

    prepared = engine.prepare_pt2e(exported(Chain(), X), quantizer_of(side, annotate))
    with pytest.raises(Exception) as caught:  # noqa: PT011  # the peer's is whatever an assertion says
        prepared(torch.full((2, 4), float("nan")))
    assert ("relu" in str(caught.value)) == (side == "ours")


def test_the_default_range_of_float8(side):
    if side == "theirs":
        observer = their_observers.MinMaxObserver(dtype=torch.float8_e4m3fn)
        assert (observer.quant_min, observer.quant_max) == (0, 15)
    else:
        observer = our_observers.MinMaxObserver(dtype=torch.float8_e4m3fn)
        assert (observer.quant_min, observer.quant_max) == (-448, 448)


def test_the_engine_keeps_its_input_usable(side):
    def annotate(nodes):
        nodes["relu"].meta[KEY] = annotation(side, {}, spec(side))

    model = exported(Chain(), X)
    before = [str(node.target) for node in model.graph.nodes]
    _prepared, _converted = quantized(side, model, annotate, X)
    assert ([str(node.target) for node in model.graph.nodes] != before) == (side == "theirs")


def test_a_saved_program_of_either_engine_loads_in_the_other(side):
    def annotate(nodes):
        nodes["relu"].meta[KEY] = annotation(side, {nodes["x"]: spec(side)}, spec(side))

    _prepared, converted = quantized(side, exported(Chain(), X), annotate, X)
    file = io.BytesIO()
    torch.export.save(torch.export.export(converted, (X,)), file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    assert torch.equal(loaded(X), converted(X))
    with pytest.raises(ours.AlreadyConvertedError):
        ours.prepare_pt2e(loaded, _fixed())
