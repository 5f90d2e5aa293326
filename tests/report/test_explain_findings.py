"""What explain() warns of: suspicious ranges, planted one by one, and nothing where there is nothing."""

import pytest
import torch
from quantizers import CONFIG, INT8, Apply, ByHand, SmallTable, annotation, observing
from torch import nn

from quantizer_sdk import (
    QuantizationConfig,
    QuantizationSpec,
    calibrate,
    convert_pt2e,
    explain,
    prepare_pt2e,
)
from quantizer_sdk.backends.xnnpack import XNNPACKQuantizer
from quantizer_sdk.observers import MinMaxObserver, MovingAverageMinMaxObserver, PercentileObserver

X = torch.randn(8, 16, generator=torch.Generator().manual_seed(5))
WEIGHT = QuantizationSpec(torch.int8, quant_min=-127, quant_max=127, qscheme=torch.per_tensor_symmetric)


def layers():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 8))


def findings(export, module, config=CONFIG, x=X):
    """Return (kind, node, message) of each finding, which a prepared and a converted model agree on."""
    prepared = prepare_pt2e(export(module, x), SmallTable().set_global(config))
    calibrate(prepared, [x])
    found = [[(f.kind, f.node, f.message) for f in explain(m).warnings] for m in (prepared, convert_pt2e(prepared))]
    assert [each[:2] for each in found[0]] == [each[:2] for each in found[1]]
    return found[0]


def test_nothing_is_wrong_with_random_layers(export):
    assert findings(export, layers()) == []
    assert findings(export, layers(), observing(PercentileObserver, percentile=99.9)) == []


@pytest.mark.parametrize("config", [CONFIG, QuantizationConfig(INT8, INT8, WEIGHT)], ids=["per channel", "per tensor"])
def test_dead_channels(export, config):
    module = layers()
    module[2].weight.data[[1, 5]] = 0.0
    ((kind, node, message),) = findings(export, module, config)
    assert (kind, node) == ("dead_channels", "linear_1")
    assert message == "2 of 8 output channels of its weight are all zero: channels 1, 5"


@pytest.mark.parametrize(
    ("config", "effect"),
    [
        (CONFIG, "their results may stand out too"),
        (QuantizationConfig(INT8, INT8, WEIGHT), "one scale leaves the others few codes"),
    ],
    ids=["per channel", "per tensor"],
)
def test_outlier_channels(export, config, effect):
    module = layers()
    module[0].weight.data[3] *= 50.0
    kinds = {(kind, node): message for kind, node, message in findings(export, module, config)}
    message = kinds["channel_outliers", "linear"]
    assert message.startswith("1 of 16 output channels of its weight reach up to ")
    assert message.endswith(f"channel 3; {effect}")


def test_dead_activations(export):
    module = layers()
    module[0].bias.data.fill_(-100.0)
    prepared = prepare_pt2e(export(module, X), SmallTable().set_global(CONFIG))
    calibrate(prepared, [X])
    zeros = [finding for finding in explain(prepared).warnings if finding.kind == "zero_range"]
    assert [(each.node, "the channels before it are dead" in each.message) for each in zeros] == [("relu", True)]


def test_a_constant_activation(export):
    ((kind, node, message),) = findings(export, nn.Linear(16, 4), x=torch.full((2, 16), 3.0))
    assert (kind, node) == ("zero_range", "linear")
    assert message == "the range of its input is a single value: only 3 was seen"


def test_saturation(export):
    found = findings(export, nn.Linear(512, 4), observing(PercentileObserver, percentile=90.0), torch.randn(16, 512))
    kinds = [(kind, node) for kind, node, _message in found]
    assert ("saturating", "linear") in kinds
    assert "of the values of its input lie beyond the range and are clipped" in found[0][2]


def test_outliers(export):
    x = torch.randn(16, 512)
    x[0, 0] = 1000.0
    found = findings(export, nn.Linear(512, 4), observing(PercentileObserver, percentile=100.0), x)
    assert found[0][:2] == ("outliers", "linear")
    assert "reaches to 1000, " in found[0][2]
    assert findings(export, nn.Linear(512, 4), observing(MinMaxObserver), x) == []  # it does not count


def test_a_tensor_that_is_quantized_twice_with_nearly_the_same_qparams(export):
    averaged = observing(MovingAverageMinMaxObserver, averaging_constant=0.5).input_activation

    def annotate(nodes):
        first, second = nodes["linear"], nodes["linear_1"]
        first.meta["quantization_annotation"] = annotation({first.args[0]: INT8}, INT8)
        apart = annotation({second.args[0]: averaged}, INT8, allow_implicit_sharing=False)
        second.meta["quantization_annotation"] = apart

    def run(self, x):
        return self.b(self.a(x).reshape(4, 2, 16))

    x = torch.randn(8, 16)
    model = export(Apply(run, a=nn.Linear(16, 16), b=nn.Linear(16, 4)), x)
    prepared = prepare_pt2e(model, ByHand(annotate))
    calibrate(prepared, [x, x * 1.02])
    for each in (prepared, convert_pt2e(prepared)):
        (finding,) = [finding for finding in explain(each).warnings if finding.kind == "requantized"]
        assert finding.node == "linear_1"
        assert finding.message.startswith("its operand from reshape is quantized twice, then with scale ")
    far = prepare_pt2e(model, ByHand(annotate))
    calibrate(far, [x, x * 3])
    assert [finding.kind for finding in explain(far).warnings] == []


def test_a_finding_says_where(export):
    module = layers()
    module[2].weight.data[1] = 0.0
    prepared = prepare_pt2e(export(module, X), SmallTable().set_global(CONFIG))
    finding = explain(prepared).warnings[0]
    assert (finding.kind, finding.module) == ("dead_channels", "2")
    assert str(finding).startswith("linear_1: 1 of 8 output channels of its weight are all zero: channel 1; prune them")


class Masked(nn.Module):
    def forward(self, x, mask):
        return x + mask


@pytest.mark.parametrize(("number", "lost"), [(-3.4e38, True), (-1e4, True), (-100.0, False)])
def test_a_mask_that_leaves_no_codes_for_what_it_is_added_to(export, number, lost):
    mask = torch.zeros(8, 16)
    mask[:, 12:] = number
    prepared = prepare_pt2e(export(Masked(), X, mask), XNNPACKQuantizer())
    calibrate(prepared, [(X, mask)])
    for model in (prepared, convert_pt2e(prepared)):
        found = [it for it in explain(model).warnings if it.kind == "swamped"]
        assert [it.node for it in found] == (["add"] if lost else [])
        assert all(it.message.startswith("its self, whose values reach to 2.78,") for it in found)


def test_a_number_that_the_model_is_written_with_has_no_range_to_calibrate(export):
    prepared = prepare_pt2e(export(Apply(lambda _m, x: x * 0.25 + 1), X), XNNPACKQuantizer())
    calibrate(prepared, [X])
    for model in (prepared, convert_pt2e(prepared)):
        report = explain(model)
        assert sum(op.state == "quantized" for op in report.ops) == 2
        assert report.warnings == ()
