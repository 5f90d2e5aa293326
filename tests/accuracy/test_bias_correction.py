"""bias_correction: biases take back the shift of rounding, noise is not learned, and nothing gets worse in silence."""

import warnings

import pytest
import torch
from torch import nn

from quantizer_sdk import (
    BiasNotCorrectedWarning,
    CalibrationError,
    bias_correction,
    calibrate,
    convert_pt2e,
    prepare_pt2e,
)
from quantizer_sdk.accuracy.empirical_shifts import shrunk
from quantizer_sdk.backends.x86 import X86Quantizer, get_default_x86_quantization_config
from quantizer_sdk.backends.xnnpack import XNNPACKQuantizer, get_symmetric_quantization_config
from quantizer_sdk.demo.data import load_images, load_lite0
from quantizer_sdk.demo.metrics import sqnr_db


def x86():
    return X86Quantizer("onednn").set_global(get_default_x86_quantization_config())


def exported(model, *inputs):
    return torch.export.export(model.eval(), inputs).module()


def quantized(model, quantizer, batches):
    prepared = prepare_pt2e(model, quantizer)
    calibrate(prepared, batches)
    return convert_pt2e(prepared)


@pytest.fixture
def codes():
    """A batch of one row again and again, which uint8 codes hold exactly: all that is lost is lost by the weight."""
    torch.manual_seed(0)
    row = torch.randint(0, 256, (1, 16)).float()
    row[0, 0], row[0, 1] = 0.0, 255.0
    return row.expand(8, 16).contiguous()


@pytest.mark.parametrize("bias", [False, True])
def test_the_bias_takes_back_what_rounding_the_weight_adds(codes, bias):
    torch.manual_seed(1)
    layer = nn.Linear(16, 8, bias=bias)
    model = exported(nn.Sequential(layer), codes)
    state, graph = {key: value.clone() for key, value in model.state_dict().items()}, str(model.graph)
    corrected = bias_correction(model, x86(), [codes])
    weight = quantized(model, x86(), [codes]).state_dict()["0.weight"]
    scale = layer.weight.abs().amax(1) / 127
    lost = (layer.weight.double() - weight * scale[:, None].double()) @ codes[0].double()
    expected = lost if layer.bias is None else layer.bias.double() + lost
    torch.testing.assert_close(corrected.state_dict()["0.bias"].double(), expected, rtol=0, atol=2e-4)
    assert lost.abs().max() > 0.05
    assert str(model.graph) == graph  # and the user's model is what it was
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    found = quantized(corrected, x86(), [codes])(codes)
    assert (
        (found - layer(codes)).abs().max() < 2e-4 < (quantized(model, x86(), [codes])(codes) - layer(codes)).abs().max()
    )


class Twice(nn.Module):
    """One layer called twice, on tensors of different means."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(16, 16)

    def forward(self, x):
        return self.layer(torch.relu(self.layer(x)))


def test_each_call_of_a_layer_gets_a_bias_of_its_own(codes):
    torch.manual_seed(2)
    corrected = bias_correction(exported(Twice(), codes), x86(), [codes])
    biases = [value for key, value in corrected.state_dict().items() if "bias" in key]
    assert len(biases) == 2
    assert not torch.equal(*biases)


def test_spread_is_taken_for_noise_and_what_has_none_for_a_shift():
    shift = torch.tensor([1.0, -2.0])
    assert torch.equal(shrunk(shift.expand(5, 2)), shift)
    assert torch.equal(shrunk(shift[None]), shift)  # of one row nothing is known
    assert torch.equal(shrunk(torch.tensor([[1.0, 1.0], [-1.0, -1.0]])), torch.zeros(2))
    # Means 1 and 1, variances of the rows 2 and 2: of 4 rows the noise of a mean is 1/2 of its power.
    rows = 1 + torch.tensor([[1.5, 1.5], [-1.5, -1.5], [0.5**0.5 * 1.2247449, 0.0], [-(0.5**0.5) * 1.2247449, 0.0]])
    noise = rows.var(0).mean() / 4
    torch.testing.assert_close(shrunk(rows), rows.mean(0) * (1 - noise))


class Masked(nn.Module):
    """Most rows of the layer's result are thrown away."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(16, 8)

    def forward(self, x):
        return self.layer(x)[:1]


def test_outputs_that_would_get_worse_are_said_and_stay(codes):
    torch.manual_seed(3)
    x = torch.cat([codes[:1] * 0, codes[:7]])  # the row that counts has no error to take back, the others have
    x[0, 1] = 0.0
    model = exported(Masked(), x)
    with pytest.warns(BiasNotCorrectedWarning, match=r"no bias is corrected, .* makes the outputs worse"):
        corrected = bias_correction(model, x86(), [x])
    assert torch.equal(corrected.state_dict()["layer.bias"], model.state_dict()["layer.bias"])


class Addmm(nn.Module):
    """A product that the quantizer writes as a linear layer."""

    def __init__(self):
        super().__init__()
        self.bias, self.weight = nn.Parameter(torch.randn(8)), nn.Parameter(torch.randn(16, 8))

    def forward(self, x):
        return torch.addmm(self.bias, x, self.weight)


def test_layers_of_another_form_are_named(codes):
    torch.manual_seed(4)
    quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    with pytest.warns(BiasNotCorrectedWarning, match=r"1 quantized layers .* linear.*torch\.addmm"):
        bias_correction(exported(Addmm(), codes), quantizer, [codes])


class Named(nn.Module):
    """Takes inputs by name."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(16, 8)

    def forward(self, x, scale):
        return self.layer(x) * scale, scale


def test_batches_may_be_dicts(codes):
    torch.manual_seed(5)
    scale = torch.tensor(2.0)
    model = torch.export.export(Named().eval(), (), {"x": codes, "scale": scale}).module()
    corrected = bias_correction(model, x86(), [{"scale": scale, "x": codes}])
    assert not torch.equal(corrected.state_dict()["layer.bias"], model.state_dict()["layer.bias"])


@pytest.mark.parametrize(("batches", "message"), [([], "no batch"), ([3], "batch 0 is a int")])
def test_batches_that_are_none_are_errors(codes, batches, message):
    with pytest.raises(CalibrationError, match=message):
        bias_correction(exported(nn.Linear(16, 8), codes), x86(), batches)


@pytest.mark.parametrize("config", [{"is_dynamic": True}, {"is_dynamic": True, "is_per_token": True}])
def test_layers_quantized_at_run_time_are_corrected(config):
    torch.manual_seed(6)
    x = torch.rand(64, 32) + 1
    layer = nn.Linear(32, 16)
    model = exported(nn.Sequential(layer), x)
    quantizer = X86Quantizer("onednn").set_global(get_default_x86_quantization_config(**config))
    with warnings.catch_warnings():
        warnings.simplefilter("error", BiasNotCorrectedWarning)
        corrected = bias_correction(model, quantizer, [x])

    def shift(it):
        return (convert_pt2e(prepare_pt2e(it, quantizer))(x) - layer(x)).mean(0).abs().mean()

    assert shift(corrected) < 0.2 * shift(model)


def test_efficientnet_lite0_gains_on_images_that_it_was_not_corrected_with():
    model, images = load_lite0(), load_images().images
    batches = [(image,) for image in images[:12].split(1)]
    corrected = bias_correction(exported(model, images[:1]), x86(), batches)
    graph = quantized(corrected, x86(), batches)
    with torch.no_grad():
        found = torch.cat([graph(image) for image in images[12:].split(1)])
        assert sqnr_db(model(images[12:]), found) >= 20
