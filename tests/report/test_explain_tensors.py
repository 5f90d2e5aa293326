"""What explain() says of each tensor, its range and what was clipped: prepared, trained, converted, saved."""

import dataclasses
import io

import pytest
import torch
import torchao.quantization.pt2e as torchao
from quantizers import CONFIG, INT8, WEIGHT8, Apply, ByHand, SmallTable, annotation, observing
from torch import nn
from torchao_quantizers import Net, OfTorchao, on_input, spec

from quantizer_sdk import QuantizationSpec, calibrate, convert_pt2e, explain, prepare_pt2e
from quantizer_sdk.observers import HistogramObserver, MovingAverageMinMaxObserver, MSEObserver, PercentileObserver
from quantizer_sdk.quantize_pt2e import prepare_qat_pt2e
from quantizer_sdk.refusal import ADVICE

X = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))


class Layers(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.conv, self.norm, self.second = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3)
        self.last = nn.Linear(16, 2)

    def forward(self, x):
        x = torch.relu(self.norm(self.conv(x))).flip(2)
        return nn.functional.elu(self.last(self.second(x).flatten(2)))


def table(given=CONFIG):
    return SmallTable().set_global(given)


def tensors(explanation):
    return {(op.node, tensor.role): tensor for op in explanation.ops for tensor in op.tensors}


@pytest.fixture(scope="module")
def model(export):
    return export(Layers(), X)


@pytest.fixture(scope="module")
def prepared(model):
    prepared = prepare_pt2e(model, table())
    calibrate(prepared, [X])
    return prepared


def saved_and_loaded(model):
    file = io.BytesIO()
    torch.export.save(torch.export.export(model, (X,)), file)
    file.seek(0)
    return torch.export.load(file).module()


# States


def test_what_moves_values_between_quantized_points_passes_them_through(prepared):
    flip = next(op for op in explain(prepared).ops if op.node == "flip")
    assert (flip.state, flip.row, flip.reason) == ("passthrough", None, "no row for aten.flip.default")
    assert not flip.claimed


def test_at_the_end_of_quantized_ops_it_is_float(export):
    found = explain(export(Apply(lambda self, x: self.a(x).flip(1), a=nn.Linear(8, 8)), X), table()).ops
    assert [op.state for op in found] == ["quantized", "float"]


def test_what_it_says_of_ops_is_the_same_at_every_stage(model, prepared):
    def decided(explanation):
        return [(op.node, op.op, op.state, op.row, op.rule, op.reason, op.macs) for op in explanation.ops]

    converted = convert_pt2e(prepared)
    before = decided(explain(model, table()))
    assert [state for _node, _op, state, *_rest in before].count("quantized") == 4
    for later in (prepared, converted, saved_and_loaded(converted)):
        assert decided(explain(later)) == before


def test_it_names_the_rule_that_gave_an_op_its_config(model):
    quantizer = SmallTable().set_module_name("last", CONFIG).set_global(CONFIG)
    rules = {op.node: op.rule for op in explain(model, quantizer).ops}
    assert rules["linear"] == "the rule for module name 'last'"
    assert rules["conv2d"] == "the rule for all ops (global)"
    assert rules["elu"] is None


# Tensors


def test_a_prepared_model_tells_the_qparams_that_its_observers_choose(prepared):
    for op in explain(prepared).ops:
        for tensor in op.tensors:
            channels = 4 if op.op.startswith("aten.conv2d") else 2
            assert tensor.scales == (channels if tensor.role == "weight" else 1)
    found = tensors(explain(prepared))
    assert set(found) == {
        *(("conv2d", "input"), ("conv2d", "weight"), ("relu", "output"), ("flip", "self"), ("flip", "output")),
        *(("conv2d_1", "input"), ("conv2d_1", "weight"), ("conv2d_1", "output"), ("flatten", "self")),
        *(("flatten", "output"), ("linear", "input"), ("linear", "weight"), ("linear", "output")),
    }
    observer = prepared.activation_post_process_0
    scale, zero_point = observer.calculate_qparams()
    x = found["conv2d", "input"]
    assert x.calibrated == (float(X.min()), float(X.max()))
    assert x.scale == (float(scale), float(scale))
    assert x.zero_point == (int(zero_point), int(zero_point))
    assert x.range == pytest.approx((float(scale) * (-128 - int(zero_point)), float(scale) * (127 - int(zero_point))))
    assert (x.dtype, x.quant_min, x.quant_max, x.granularity) == ("int8", -128, 127, "per tensor")
    assert (x.node, x.observer, x.clipped) == ("x", "MinMaxObserver", 0.0)
    assert found["conv2d", "weight"].granularity == "per channel 0"


def test_a_converted_model_tells_what_its_observers_knew(prepared):
    assert tensors(explain(convert_pt2e(prepared))).keys() == tensors(explain(prepared)).keys()
    for (place, before), after in zip(
        tensors(explain(prepared)).items(), tensors(explain(convert_pt2e(prepared))).values(), strict=True
    ):
        for field in ("dtype", "scales", "calibrated", "clipped", "observer", "zero_point", "granularity"):
            assert getattr(after, field) == getattr(before, field), (place, field)
        assert after.scale == pytest.approx(before.scale, rel=1e-7)


def test_a_saved_model_tells_it_of_activations_still(prepared):
    converted = convert_pt2e(prepared)
    before, after = tensors(explain(converted)), tensors(explain(saved_and_loaded(converted)))
    assert before.keys() == after.keys()
    for place, tensor in after.items():
        if place[1] == "weight":
            assert (tensor.scale, tensor.calibrated) == (before[place].scale, None)
        else:
            assert dataclasses.replace(tensor, node="") == dataclasses.replace(before[place], node="")


def test_a_saved_range_is_not_taken_for_a_changed_one(prepared):
    loaded = saved_and_loaded(convert_pt2e(prepared))
    first = next(node for node in loaded.graph.nodes if "quantize_per_tensor" in str(node.target))
    for node in (first, *first.users):
        node.args = (node.args[0], 0.5, *node.args[2:])
    changed = tensors(explain(loaded))["conv2d", "input"]
    assert (changed.scale, changed.calibrated) == ((0.5, 0.5), None)


def test_a_model_of_another_library_is_said_to_have_no_record(prepared):
    converted = convert_pt2e(prepared)
    converted.meta.clear()
    for node in converted.graph.nodes:
        for key in [key for key in node.meta if key.startswith("quantizer_sdk")]:
            del node.meta[key]
    explanation = explain(converted)
    assert [finding.kind for finding in explanation.warnings] == ["no_record"]
    states = {op.node: op.state for op in explanation.ops}
    assert states == {
        "conv2d": "quantized",
        "relu": "quantized",
        "flip": "passthrough",
        "conv2d_1": "quantized",
        "flatten": "passthrough",
        "linear": "quantized",
        "elu": "float",
    }
    assert tensors(explanation)["relu", "output"].calibrated is None


def test_a_prepared_model_without_data_says_so(model):
    explanation = explain(prepare_pt2e(model, table()))
    (finding,) = explanation.warnings
    assert finding.kind == "uncalibrated"
    assert "have seen no data" in finding.message
    assert all(tensor.scale is None and tensor.clipped is None for tensor in tensors(explanation).values())


def test_a_trained_model_tells_it_too(export):
    prepared = prepare_qat_pt2e(export(Layers(), X), table(observing(MovingAverageMinMaxObserver)))
    prepared(X)
    before, after = tensors(explain(prepared)), tensors(explain(convert_pt2e(prepared)))
    assert before["relu", "output"].calibrated is not None
    assert before["conv2d", "input"].observer == "MovingAverageMinMaxObserver"
    assert before["conv2d", "input"].clipped is None  # averages do not tell
    for place in (("conv2d", "input"), ("relu", "output"), ("linear", "output")):
        assert after[place].scale == pytest.approx(before[place].scale, rel=1e-6), place
        assert after[place].calibrated == before[place].calibrated


def test_ops_in_branches_have_their_tensors(export):
    branches = Apply(
        lambda self, x: torch.cond(x.sum() > 0, lambda y: self.a(y) * 2, lambda y: self.b(y) + y, (x,)),
        a=nn.Linear(4, 4),
        b=nn.Linear(4, 4),
    )
    x = torch.randn(2, 4)
    prepared = prepare_pt2e(export(branches, x), table())
    prepared(x)
    prepared(-x)
    converted = convert_pt2e(prepared)
    for explanation in (explain(prepared), explain(converted)):
        found = tensors(explanation)
        names = {place for place in found if place[1] == "weight"}
        assert names == {("true_graph_0/linear", "weight"), ("false_graph_0/linear", "weight")}
        assert all(tensor.scale is not None for tensor in found.values())
        assert explanation.parameters("quantized") == 40
        assert explanation.macs("quantized") == 64


def test_dynamic_points_have_no_scale(export):
    dynamic = QuantizationSpec(
        torch.int8, quant_min=-128, quant_max=127, qscheme=torch.per_tensor_affine, is_dynamic=True
    )

    def annotate(nodes):
        linear = nodes["linear"]
        operands = {linear.args[0]: dynamic, linear.args[1]: WEIGHT8}
        linear.meta["quantization_annotation"] = annotation(operands, None)

    x = torch.randn(2, 8)
    prepared = prepare_pt2e(export(nn.Linear(8, 4), x), ByHand(annotate))
    prepared(x)
    for each in (prepared, convert_pt2e(prepared)):
        activation = tensors(explain(each))["linear", "input"]
        assert (activation.dynamic, activation.scale, activation.calibrated) == (True, None, None)
        assert "scales computed in each run" in str(explain(each))


# Clipping


@pytest.mark.parametrize(
    ("observer", "arguments"),
    [
        (PercentileObserver, {"percentile": 90.0}),
        (PercentileObserver, {"percentile": 99.0}),
        (HistogramObserver, {}),
        (MSEObserver, {}),
    ],
    ids=["90 %", "99 %", "histogram", "MSE"],
)
def test_the_share_of_clipped_values_is_that_of_the_data(export, observer, arguments):
    x = torch.randn(16, 512)
    prepared = prepare_pt2e(export(nn.Linear(512, 4), x), table(observing(observer, **arguments)))
    calibrate(prepared, [x])
    found = tensors(explain(prepared))["linear", "input"]
    low, high = found.range[0] - found.scale[0] / 2, found.range[1] + found.scale[0] / 2
    clipped = ((x < low) | (x > high)).double().mean()
    width = float(prepared.activation_post_process_0.bin_width)
    in_the_bins_of_the_ends = (((x - low).abs() < width) | ((x - high).abs() < width)).double().mean()
    assert abs(found.clipped - clipped) <= in_the_bins_of_the_ends
    assert tensors(explain(convert_pt2e(prepared)))["linear", "input"].clipped == found.clipped
    if observer is PercentileObserver:
        assert found.clipped > (1 - arguments["percentile"] / 100) / 2


def test_observers_that_average_do_not_tell_what_is_clipped(export):
    x = torch.randn(4, 8)
    prepared = prepare_pt2e(export(nn.Linear(8, 4), x), table(observing(MovingAverageMinMaxObserver)))
    calibrate(prepared, [x, 2 * x])
    found = tensors(explain(prepared))["linear", "input"]
    assert (found.clipped, found.calibrated is not None) == (None, True)


@pytest.mark.parametrize("observer", [torchao.HistogramObserver, torchao.MinMaxObserver], ids=["histogram", "min-max"])
def test_observers_of_another_library_tell_what_they_keep(export, observer):
    x = torch.randn(64, 8)
    prepared = prepare_pt2e(export(Net(), x), OfTorchao(on_input(spec(observer))))
    prepared(x)
    for each in (prepared, convert_pt2e(prepared)):
        found = tensors(explain(each))["linear", "input"]
        assert found.calibrated == pytest.approx((float(x.min()), float(x.max())))
        assert (found.observer, found.scales) == (observer.__name__, 1)
        assert (found.clipped is None) == (observer is torchao.MinMaxObserver)
        assert found.clipped is None or found.clipped < 0.05


def test_observers_of_another_library_that_saw_nothing_are_not_asked(export):
    prepared = prepare_pt2e(export(Net(), torch.randn(4, 8)), OfTorchao(on_input(spec(torchao.MinMaxObserver))))
    explanation = explain(prepared)
    assert [finding.kind for finding in explanation.warnings] == ["uncalibrated"]
    assert tensors(explanation)["linear", "input"].scale is None


def test_every_float_op_says_what_would_change_it(model):
    for op in explain(model, SmallTable().set_module_name("last", None).set_global(CONFIG)).ops:
        if op.state in {"float", "passthrough"}:
            assert op.cause in ADVICE
            assert op.advice
        else:
            assert (op.cause, op.advice) == (None, None)


def test_int8_is_the_type_of_shared_ops(export):
    x = torch.randn(1, 3, 8, 8)
    prepared = prepare_pt2e(export(nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2)), x), table())
    prepared(x)
    explanation = explain(prepared)
    pool = next(op for op in explanation.ops if op.row == "max_pool")
    assert (pool.state, pool.tensors[0].scale, INT8.dtype) == ("shared", pool.tensors[1].scale, torch.int8)
