"""Which layers cost accuracy: what is planted is found, and gains are those of models really made."""

import dataclasses
import json

import pytest
import torch
from nets import Net, Table, exported, net_and_data
from quantizers import CONFIG, ByHand

from quantizer_sdk import CalibrationError, RuleError, calibrate, convert_pt2e, prepare_pt2e, sensitivity
from quantizer_sdk.mixed.outputs import Reference

PLANTED = ("stem", "blocks.0.one", "blocks.1.two", "head")


def measured(model, quantizer, data):
    prepared = prepare_pt2e(model, quantizer)
    calibrate(prepared, data)
    converted = convert_pt2e(prepared)
    with torch.no_grad():
        pairs = [(model(batch).double(), converted(batch).double()) for batch in data]
    noise = sum(float((one - other).square().sum()) for one, other in pairs)
    return -10 * torch.tensor(noise / sum(float(one.square().sum()) for one, _ in pairs)).log10().item()


@pytest.mark.parametrize("name", PLANTED)
def test_a_layer_with_coarse_weights_is_first(name):
    net, data = net_and_data()
    coarse = dataclasses.replace(CONFIG, weight=dataclasses.replace(CONFIG.weight, quant_min=-3, quant_max=3))
    quantizer = Table().set_global(CONFIG).set_module_name(name, coarse)
    found = sensitivity(exported(net, data[0]), quantizer, data, measure=2)
    first = found.ranked()[0]
    assert first.name == name
    assert first.weight_share > 0.5
    assert first.measured_gain > 5


def test_measured_gains_are_those_of_models_made_by_hand():
    net, data = net_and_data()
    model = exported(net, data[0])
    found = sensitivity(model, Table(), data, measure=20)
    assert found.sqnr == pytest.approx(measured(model, Table(), data), abs=1e-4)
    by_name = {layer.name: layer for layer in found.layers}
    config = Table().default_config()
    for name in ("stem", "head"):
        quantizer = Table().set_global(config).set_module_name(name, None)
        assert by_name[name].measured_gain == pytest.approx(measured(model, quantizer, data) - found.sqnr, abs=1e-4)
    assert all(layer.measured_gain is not None for layer in found.layers)
    assert sum(layer.share for layer in found.layers) == pytest.approx(1, abs=0.1)  # of first order
    assert abs(found.sqnr - found.estimated_sqnr) < 3  # first order, and layers' noises are not quite independent


def test_the_quantizer_and_the_model_stay():
    net, data = net_and_data()
    model = exported(net, data[0])
    code, quantizer = model.code, Table()
    sensitivity(model, quantizer, data, measure=1)
    assert model.code == code
    assert quantizer._rules.empty


def test_it_prints_and_has_json():
    net, data = net_and_data()
    told = []
    found = sensitivity(exported(net, data[0]), Table(), data, measure=1, progress=told.append)
    lines = str(found).splitlines()
    assert lines[0].startswith("quantized: ")
    assert len(lines) == 2 + len(found.layers)
    assert "meas." in lines[2]
    content = json.loads(found.to_json())
    assert [layer["name"] for layer in content["layers"]] == [layer.name for layer in found.ranked()]
    assert any("left float" in words for words in told)


def test_ops_outside_all_submodules_are_told_but_not_tried():
    class Plain(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.randn(4, 4))

        def forward(self, x):
            return torch.nn.functional.linear(x, self.weight)

    data = [torch.randn(2, 4)]
    found = sensitivity(exported(Plain(), data[0]), Table(), data)
    (layer,) = found.layers
    assert (layer.name, layer.modules, layer.measured_gain) == ("", (), None)
    assert "outside submodules: linear" in str(found)


def test_what_it_does_not_take():
    net, data = net_and_data()
    model = exported(net, data[0])
    with pytest.raises(RuleError, match="ByHand"):
        sensitivity(model, ByHand(lambda _: None), data)
    with pytest.raises(CalibrationError, match="no batches"):
        sensitivity(model, Table(), [])


def test_noise_is_averaged_over_outputs():
    class Two(Net):
        def forward(self, x):
            y = super().forward(x)
            return {"large": y * 1000, "small": y[:, :1], "classes": y.argmax(1)}

    torch.manual_seed(0)
    data = [torch.randn(2, 3, 8, 8)]
    model = exported(Two(), data[0])
    reference = Reference.of(model, data)
    assert len(reference.weights) == 2

    class Off(torch.nn.Module):
        def forward(self, x):
            y = model(x)
            return {"large": y["large"], "small": y["small"] * 1.1, "classes": y["classes"]}

    assert reference.sqnr(reference.errors(Off(), data)) == pytest.approx(20 + 3.0103, abs=1e-3)
