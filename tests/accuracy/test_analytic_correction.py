"""bias_correction without data: the closed form of Nagel et al. 2019, on layers computed by hand."""

import math
import warnings

import pytest
import torch
from torch import nn

from quantizer_sdk import BiasNotCorrectedWarning, bias_correction, cross_layer_equalization
from quantizer_sdk.accuracy.channel_means import channel_means, clipped_moments
from quantizer_sdk.backends.xnnpack import XNNPACKQuantizer, get_symmetric_quantization_config
from quantizer_sdk.quantize_pt2e import tidy

INFINITE = math.inf


def xnnpack():
    return XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))


def normed(module):
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)
            nn.init.normal_(norm.running_mean)
            nn.init.uniform_(norm.running_var, 0.5, 2)
    return module.eval()


@pytest.mark.parametrize(("low", "high"), [(0.0, INFINITE), (0.0, 6.0), (-1.0, 1.0), (-INFINITE, 0.5), (2.0, 3.0)])
def test_moments_of_a_clipped_normal_are_those_of_its_integral(low, high):
    mean, deviation = torch.tensor([-1.0, 0.0, 2.0, 5.5]).double(), torch.tensor([0.5, 1.0, 3.0, 2.0]).double()
    z = torch.linspace(-9, 9, 200_001).double()[:, None]
    density = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi) * (18 / 200_000)
    values = (mean + deviation * z).clamp(low, high)
    first = (values * density).sum(0)
    spread = ((values - first).square() * density).sum(0).sqrt()
    found = clipped_moments(mean, deviation, low, high)
    torch.testing.assert_close(found[0], first, rtol=0, atol=1e-6)
    torch.testing.assert_close(found[1], spread, rtol=0, atol=1e-5)


def test_without_a_deviation_a_clamp_only_clamps():
    found = clipped_moments(torch.tensor([-1.0, 3.0, 9.0]).double(), torch.zeros(3).double(), 0.0, 6.0)
    assert found[0].tolist() == [0, 3, 6]
    assert found[1].tolist() == [0, 0, 0]


@pytest.mark.parametrize("groups", [1, 8])
def test_the_shift_is_the_closed_form(export, groups):
    first, norm, second = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, groups=groups)
    model = export(normed(nn.Sequential(first, norm, nn.ReLU(), second)), torch.randn(2, 3, 8, 8))
    state = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.warns(BiasNotCorrectedWarning, match=r"bias of 1 quantized layers .* conv2d "):  # the first, of images
        corrected = bias_correction(model, xnnpack())
    # E[relu(N(β, γ²))] = |γ|·φ(β/γ) + β·Φ(β/|γ|), and W̃ is W rounded to 127 steps of each channel's largest.
    beta, gamma = norm.bias.double(), norm.weight.double().abs()
    ratio = beta / gamma
    mean = gamma * torch.exp(-ratio.square() / 2) / math.sqrt(2 * math.pi) + beta * torch.special.ndtr(ratio)
    weight = second.weight.double()
    scale = weight.abs().amax((1, 2, 3), keepdim=True) / 127
    lost = (weight - (weight / scale).round() * scale).sum((2, 3))
    shift = lost @ mean if groups == 1 else lost[:, 0] * mean
    assert shift.abs().max() > 1e-4
    (found,) = (value for key, value in corrected.state_dict().items() if key == "3.bias")
    torch.testing.assert_close(found.double(), second.bias.double() + shift, rtol=0, atol=2e-7)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


class Block(nn.Module):
    """Means through a sum, a curve, a concatenation and an average."""

    def __init__(self):
        super().__init__()
        self.a, self.b = (nn.Sequential(nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4)) for _ in range(2))
        self.last = nn.Linear(12, 3)

    def forward(self, x):
        a, b = self.a(x), self.b(x)
        joined = torch.cat([torch.relu(a + b), nn.functional.silu(a), nn.functional.hardtanh(b)], 1)
        return self.last(joined.mean([2, 3]))


def test_means_go_through_sums_curves_and_averages(export):
    model = normed(Block())
    graph = tidy(export(model, torch.randn(2, 2, 8, 8)))
    (read,) = (node.args[0] for node in graph.graph.nodes if node.target is torch.ops.aten.linear.default)
    found = channel_means(graph)[read]
    a, b = (norm.bias + norm.weight * torch.randn(400_000, 4) for norm in (model.a[1], model.b[1]))
    drawn = torch.cat([torch.relu(a + b), nn.functional.silu(a), nn.functional.hardtanh(b)], 1).double()
    assert ((found - drawn.mean(0)).abs() / (drawn.std(0) / 400_000**0.5)).max() < 4.5  # standard errors


def test_the_mean_of_real_data_that_is_normed_is_met(export):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(8, 16, 1), nn.BatchNorm2d(16), nn.ReLU6(), nn.Conv2d(16, 4, 1)).train()
    x = torch.randn(64, 8, 8, 8)
    model[1].momentum = None
    model(x)  # batch norm learns its statistics
    graph = tidy(export(model.eval(), x))
    (clamp,) = (node for node in graph.graph.nodes if node.target is torch.ops.aten.hardtanh.default)
    found = channel_means(graph)[clamp]
    torch.testing.assert_close(found, model[:3](x).mean((0, 2, 3)).double(), rtol=0, atol=0.01)


def test_statistics_follow_equalized_channels(export):
    torch.manual_seed(2)
    model = normed(nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1)))
    equalized = cross_layer_equalization(export(model, torch.randn(2, 3, 8, 8)))
    (relu,) = (node for node in equalized.graph.nodes if node.target is torch.ops.aten.relu.default)
    before = channel_means(tidy(export(model, torch.randn(2, 3, 8, 8))))
    (plain,) = (mean for node, mean in before.items() if node.name == "relu")
    factor = next(v for k, v in equalized.state_dict().items() if k == "0.bias_equalized") / next(
        v for k, v in tidy(export(model, torch.randn(2, 3, 8, 8))).state_dict().items() if k == "0.bias"
    )
    assert factor.unique().numel() > 1
    torch.testing.assert_close(channel_means(equalized)[relu], plain * factor.double())


def test_the_shift_of_a_transposed_convolution(export):
    torch.manual_seed(3)
    model = normed(
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2))
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BiasNotCorrectedWarning)
        corrected = bias_correction(export(model, torch.randn(2, 3, 4, 4)), xnnpack())
    shift = corrected.state_dict()["2.bias"] - model[2].bias.detach()
    weight = (
        model[2].weight.detach().double()
    )  # [in, out / groups, 2, 2]: per tensor on XNNPACK where groups are several
    scales = weight.abs().max() / 127, weight.abs().amax((0, 2, 3), keepdim=True) / 127
    candidates = []
    for scale in scales:
        lost = (weight - (weight / scale).round() * scale).sum((2, 3)) / 4
        mean = model[1].bias.detach().double()
        candidates.append(torch.cat([mean[:2] @ lost[:2], mean[2:] @ lost[2:]]))
    assert min(float((shift - it).abs().max()) for it in candidates) < 1e-6
