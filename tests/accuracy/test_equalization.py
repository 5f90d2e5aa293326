"""cross_layer_equalization: the float model is bit for bit the same, and ranges of channels are alike."""

import warnings

import pytest
import torch
from torch import nn

from quantizer_sdk import (
    CalibrationError,
    NotEqualizedWarning,
    NotExportedError,
    calibrate,
    convert_pt2e,
    cross_layer_equalization,
    prepare_pt2e,
)
from quantizer_sdk.accuracy.chains import find_chains
from quantizer_sdk.accuracy.channel_weights import weight_by_input, weight_by_output
from quantizer_sdk.backends.xnnpack import XNNPACKQuantizer, get_symmetric_quantization_config
from quantizer_sdk.constants import Constants
from quantizer_sdk.demo.metrics import sqnr_db
from quantizer_sdk.operands import argument
from quantizer_sdk.quantize_pt2e import tidy


def uneven(model):
    """Give the channels of batch norms magnitudes from 1 to 2^6, as training leaves them."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            with torch.no_grad():
                module.weight.copy_(2.0 ** torch.linspace(-3, 3, module.num_features))
                module.bias.uniform_(-1, 1)
                module.running_var.uniform_(0.5, 2)
    return model.eval()


def network(act=nn.ReLU):
    """Every kind of layer and of op between layers."""
    return uneven(
        nn.Sequential(
            *(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), act()),
            *(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8), act(), nn.MaxPool2d(2)),
            *(nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4), act(), nn.ZeroPad2d(1)),
            *(nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2), nn.LeakyReLU(0.3), nn.AvgPool2d(2)),
            *(nn.Conv2d(6, 4, 3, groups=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
            *(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)),
        )
    )


@pytest.fixture
def x():
    return torch.randn(4, 3, 16, 16)


def pairs(model):
    """The largest weights of each channel in the first and the second layer of each chain."""
    constants = Constants(model)
    for chain in find_chains(model)[0]:
        weights = [constants.read(argument(layer, "weight")).detach() for layer in (chain.first, chain.second)]
        yield (
            weight_by_output(chain.first, weights[0]).abs().amax(1),
            weight_by_input(chain.second, weights[1]).abs().amax(1),
        )


def test_by_weights_ranges_meet_and_bits_stay(export, x):
    model = export(network(), x)
    graph, state = str(model.graph), {key: value.clone() for key, value in model.state_dict().items()}
    equalized = cross_layer_equalization(model)
    assert torch.equal(equalized(x), tidy(model)(x))
    assert str(model.graph) == graph
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    ratios = [first / second for first, second in pairs(equalized)]
    assert len(ratios) == 6
    for ratio in ratios:  # to the next power of two
        assert ratio.max() <= 2 * (1 + 1e-6)
        assert ratio.min() >= 0.5 * (1 - 1e-6)
    before = torch.cat([first / second for first, second in pairs(tidy(model))])
    assert before.max() / before.min() > 100


def test_by_activations_depthwise_layers_read_channels_of_one_range(export, x):
    equalized = cross_layer_equalization(export(network(), x), [x])
    read = {}

    class Watch(torch.fx.Interpreter):
        def run_node(self, node):
            value = super().run_node(node)
            if node.name in {"relu", "relu_1"}:
                read[node.name] = value.detach().abs().amax((0, 2, 3))
            return value

    Watch(equalized).run(x)
    live = read["relu"][read["relu"] > 0]
    assert live.max() < 2 * live.min()


@pytest.mark.parametrize("act", [nn.ReLU, nn.ReLU6])
def test_by_activations_bits_stay(export, x, act):
    model = export(network(act), x)
    equalized = cross_layer_equalization(model, [x])
    assert any("equalized" in key for key in equalized.state_dict())
    assert torch.equal(equalized(x), tidy(model)(x))
    assert torch.equal(equalized(0.5 * x), tidy(model)(0.5 * x))


class Clamped(nn.Module):
    """A relu6 between two layers; its second channel stays small."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 2, 1, bias=False), nn.Conv2d(2, 2, 1, groups=2, bias=False)
        with torch.no_grad():
            self.first.weight.copy_(torch.tensor([8.0, 0.5]).reshape(2, 1, 1, 1))
            self.second.weight.fill_(1.0)

    def forward(self, x):
        return self.second(nn.functional.relu6(self.first(x)))


def test_a_clamp_is_met_by_none_that_did_not_meet_it(export):
    x = torch.linspace(0, 1, 256).reshape(1, 1, 16, 16)
    model = export(Clamped(), x)
    equalized = cross_layer_equalization(model, [x])
    weights = [value.flatten().tolist() for key, value in equalized.state_dict().items() if "weight" in key]
    # The first channel is at the bound. The second reaches 0.5, so that 6 is 12 times that: 2, with 4 times to spare.
    assert sorted(weights) == sorted([[8.0, 1.0], [1.0, 0.5]])
    assert torch.equal(equalized(6 * x), model(6 * x))
    assert not torch.equal(equalized(8 * x), model(8 * x))  # as documented


def test_a_clamp_may_come_behind_a_view(export):
    x = torch.rand(256, 3, 2, 2)
    layers = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.ReLU6(), nn.Dropout(), nn.Linear(8, 2)
    )
    model = export(layers, x)
    equalized = cross_layer_equalization(model, [x])
    assert any("equalized" in key for key in equalized.state_dict())
    assert torch.equal(equalized(x), model(x))


class Crossed(nn.Module):
    """A convolution without a batch, as many channels as places, and linear layers over the places."""

    def __init__(self):
        super().__init__()
        self.first, self.conv, self.last = nn.Linear(4, 4), nn.Conv1d(4, 4, 1), nn.Linear(4, 4)

    def forward(self, x):
        return self.last(torch.relu(self.conv(torch.relu(self.first(x)))))


def test_channels_on_other_axes_do_not_meet(export):
    with pytest.warns(NotEqualizedWarning, match=r"reads the channels of linear on another axis.*of conv1d on another"):
        cross_layer_equalization(export(Crossed(), torch.rand(4, 4)))


def test_without_batches_a_clamp_is_in_the_way(export):
    model = export(Clamped(), torch.rand(1, 1, 4, 4))
    with pytest.warns(NotEqualizedWarning, match=r"first|conv2d: \w+ clamps: give batches"):
        equalized = cross_layer_equalization(model)
    assert torch.equal(equalized(torch.ones(1, 1, 4, 4)), model(torch.ones(1, 1, 4, 4)))


class Forked(nn.Module):
    """Nothing that qualifies: a result that is read twice, a curve in between, a layer called twice."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = (nn.Conv2d(4, 4, 1) for _ in range(3))

    def forward(self, x):
        x = self.first(x)
        return self.third(self.third(torch.tanh(self.second(torch.relu(x))) + x))


def test_what_does_not_qualify_is_said(export):
    with pytest.warns(NotEqualizedWarning, match=r"feeds 2 ops.*tanh does not pass .*other ops read it too"):
        cross_layer_equalization(export(Forked(), torch.randn(1, 4, 4, 4)))


def test_too_few_values_tell_no_range(export):
    x = torch.rand(255, 4)
    model = export(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)), x)
    with pytest.warns(NotEqualizedWarning, match="linear: only 255 values of a channel are seen behind it, below 256"):
        cross_layer_equalization(model, [x])
    with warnings.catch_warnings():
        warnings.simplefilter("error", NotEqualizedWarning)
        cross_layer_equalization(model, [x, x])


def test_channels_without_a_signal_are_left(export, x):
    model = network()
    with torch.no_grad():
        model[0].weight[3] = 0
        model[1].bias[3] = -1.0
        model[0].bias[3] = model[1].running_mean[3]
    exported = export(model, x)
    for batches in (None, [x]):
        equalized = cross_layer_equalization(exported, batches)
        assert torch.equal(equalized(x), tidy(exported)(x))
        assert all(torch.isfinite(value).all() for value in equalized.state_dict().values())


def test_weights_with_one_scale_lose_less(export, x):
    layers = [nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, groups=16), nn.ReLU()]
    model = uneven(nn.Sequential(*layers, nn.Conv2d(16, 4, 1)))
    with torch.no_grad():
        model[5].weight.div_(model[1].weight[:, None, None])  # quiet channels count as much as loud ones
    model = export(model, x)
    quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=False))

    def noise(it):
        prepared = prepare_pt2e(it, quantizer)
        calibrate(prepared, [x])
        return sqnr_db(model(x).detach(), convert_pt2e(prepared)(x).detach())

    with warnings.catch_warnings():
        warnings.simplefilter("error", NotEqualizedWarning)
        assert noise(cross_layer_equalization(model)) > noise(model) + 3


def test_mistakes_are_named(export, x):
    with pytest.raises(CalibrationError, match="no batch at all"):
        cross_layer_equalization(export(network(), x), [])
    with pytest.raises(CalibrationError, match="batch 0 is a int"):
        cross_layer_equalization(export(network(), x), [3])
    with pytest.raises(NotExportedError):
        cross_layer_equalization(network())
