"""adaround: codes are those next to a weight, convert chooses exactly these, and layers' results lie closer."""

import itertools

import pytest
import torch
from torch import nn

from quantizer_sdk import (
    CalibrationError,
    InvalidSpecError,
    NotRoundedWarning,
    QuantizationConfig,
    QuantizationSpec,
    adaround,
    calibrate,
    convert_pt2e,
    prepare_pt2e,
)
from quantizer_sdk.accuracy.layer_samples import activation_behind, operands_at, places, results_at
from quantizer_sdk.accuracy.rounding import Reconstruction, chosen_codes
from quantizer_sdk.backends.x86 import X86Quantizer, get_default_x86_quantization_config
from quantizer_sdk.backends.xnnpack import XNNPACKQuantizer, get_symmetric_quantization_config
from quantizer_sdk.observers import MSEObserver

SETTINGS = {"iterations": 60, "samples": 256}


def xnnpack(**config):
    return XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True, **config))


def four_bits(quantizer):
    """Weights of few codes, for which rounding matters."""

    def change(config):
        weight = QuantizationSpec(torch.int8, None, -7, 7, torch.per_channel_symmetric, 0)
        return QuantizationConfig(config.input_activation, config.output_activation, weight, config.bias)

    return quantizer.with_configs(change)


def network():
    return nn.Sequential(
        *(nn.Conv2d(3, 12, 3, stride=2, padding=1), nn.BatchNorm2d(12), nn.ReLU6()),
        *(nn.Conv2d(12, 12, 3, padding=1, groups=12), nn.ReLU(), nn.Conv2d(12, 6, 1)),
        *(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 5)),
    )


def images(count, size=2):
    generator = torch.Generator().manual_seed(3)
    mixing = torch.randn(3, 3, generator=generator)  # colours that go together, as in pictures
    return [
        torch.einsum("nchw,cd->ndhw", torch.randn(size, 3, 12, 12, generator=generator), mixing) for _ in range(count)
    ]


def converted(model, quantizer, batches):
    prepared = prepare_pt2e(model, quantizer)
    calibrate(prepared, batches)
    return convert_pt2e(prepared)


def codes_and_scales(graph):
    """By layer: the codes of its weight, and their scale."""
    state = graph.state_dict()
    by_layer = {}
    for key, value in state.items():
        kind = "scale" if key.endswith("_scale") else "codes" if value.dtype == torch.int8 else None
        if kind and "weight" in key:
            by_layer.setdefault(key.split(".weight")[0], {})[kind] = value
    return by_layer


@pytest.mark.parametrize("bits", [8, 4])
def test_codes_are_next_to_the_weight_and_scales_stay(export, bits):
    batches = images(6)
    model = export(network(), batches[0])
    state, graph = {key: value.clone() for key, value in model.state_dict().items()}, str(model.graph)
    quantizer = xnnpack() if bits == 8 else four_bits(xnnpack())
    rounded = adaround(model, quantizer, batches, **SETTINGS)
    before = codes_and_scales(converted(model, quantizer, batches))
    after = codes_and_scales(converted(rounded, quantizer, batches))
    assert before.keys() == after.keys()
    assert len(before) == 4
    moved = 0
    for layer, nearest in before.items():
        assert torch.equal(nearest["scale"], after[layer]["scale"])
        difference = (nearest["codes"].int() - after[layer]["codes"].int()).abs()
        assert difference.max() <= 1
        moved += int(difference.sum())
    assert moved > 0
    # What the float model holds is what its codes say, so that nothing is left to round.
    for layer, stored in after.items():
        (weight,) = (v for k, v in rounded.state_dict().items() if k.startswith(f"{layer}.weight"))
        scale = stored["scale"].reshape(-1, *[1] * (weight.dim() - 1))
        torch.testing.assert_close(weight, stored["codes"] * scale, rtol=1e-6, atol=0)
    assert str(model.graph) == graph
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_the_same_seed_gives_the_same_codes(export):
    batches = images(4)
    model = export(network(), batches[0])
    runs = [adaround(model, four_bits(xnnpack()), batches, seed=seed, **SETTINGS).state_dict() for seed in (5, 5, 6)]
    assert all(torch.equal(value, runs[1][key]) for key, value in runs[0].items())
    assert not all(torch.equal(value, runs[2][key]) for key, value in runs[0].items())


def test_the_model_is_closer_on_data_that_it_was_not_rounded_with(export):
    batches = images(24)
    model = export(network(), batches[0])
    learned, others = batches[:12], batches[12:]

    def noise(it):
        graph = converted(it, four_bits(xnnpack()), learned)
        return sum(float((graph(x) - model(x)).detach().square().sum()) for x in others)

    assert noise(adaround(model, four_bits(xnnpack()), learned, iterations=100)) < 0.6 * noise(model)


def problem(rows=512, inputs=6, outputs=3, bits=3):
    """Operands that go together, so that the best rounding is not the nearest."""
    operand = torch.randn(1, rows, 2) @ torch.randn(2, inputs) + 0.1 * torch.randn(1, rows, inputs)
    weight = torch.randn(1, inputs, outputs)
    largest = 2 ** (bits - 1) - 1
    scale = (weight.abs().amax(1, keepdim=True) / largest).expand_as(weight)
    bias = torch.randn(outputs)
    ends = torch.full_like(weight, largest)
    return Reconstruction(
        operand=operand,
        target=torch.relu((operand @ weight)[0] + bias),
        weight=weight / scale,
        scale=scale,
        nearest=(weight / scale).round(),
        low=-ends,
        high=ends,
        bias=bias,
        activation=torch.relu,
    )


@pytest.mark.parametrize("seed", range(3))
def test_few_of_all_roundings_are_better(seed):
    torch.manual_seed(seed)
    it, rows = problem(), torch.arange(512)
    found = chosen_codes(it, rows, 200, torch.Generator().manual_seed(0))
    floor = it.weight.floor()
    assert bool(((found == floor) | (found == floor + 1)).all())
    choices = itertools.product((0.0, 1.0), repeat=it.weight.shape[1])
    every = torch.stack([it.error((floor + torch.tensor(up)[None, :, None]).clamp(-3, 3), rows) for up in choices])
    error = it.error(found, rows)
    assert error.sum() < it.error(it.nearest, rows).sum()
    assert (every < error - 1e-6).double().mean() < 0.1  # a random choice would have 0.5


CONVOLUTIONS = [
    nn.Conv1d(4, 6, 3, stride=2, padding=1),
    nn.Conv2d(4, 6, (3, 2), stride=(1, 2), padding=(2, 0), dilation=(2, 1)),
    nn.Conv2d(4, 8, 3, padding="same", groups=4),
    nn.Conv2d(4, 6, 2, padding="valid", groups=2),
    nn.Conv3d(4, 2, 2, padding=1),
]


@pytest.mark.parametrize("layer", [*CONVOLUTIONS, nn.Linear(7, 3)], ids=str)
@pytest.mark.parametrize("batched", [True, False])
def test_a_sample_of_places_is_what_the_layer_computes_there(export, layer, batched):
    rank = layer.weight.dim() - 2
    x = torch.randn(*([2] if batched else []), *([4] if rank else []), *[7] * max(rank, 1))
    model = export(layer, x)
    (node,) = (it for it in model.graph.nodes if "conv" in it.name or "linear" in it.name)
    result = model(x).detach()
    where = places(node, result, 5, torch.Generator().manual_seed(0))
    operand = operands_at(node, x, layer.weight, where)
    groups = operand.shape[0]
    weight = layer.weight.detach().reshape(groups, layer.weight.shape[0] // groups, -1)
    product = torch.einsum("gki,goi->kgo", operand, weight).reshape(len(where), -1) + layer.bias.detach()
    torch.testing.assert_close(product, results_at(node, result, where), rtol=1e-5, atol=1e-5)


def test_the_activation_alone_behind_a_layer_counts(export):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            y = self.b(nn.functional.leaky_relu(self.a(x), 0.5))
            return torch.relu(y), y

    model = export(Two(), torch.randn(2, 4))
    a, b = (node for node in model.graph.nodes if node.target is torch.ops.aten.linear.default)
    values = torch.tensor([-2.0, 3.0])
    assert activation_behind(a)(values).tolist() == [-1, 3]
    assert activation_behind(b)(values).tolist() == [-2, 3]


class Twice(nn.Module):
    """A layer that is called twice."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x):
        return self.layer(torch.relu(self.layer(x)))


def test_calls_of_one_layer_go_on_sharing_its_weight(export):
    x = torch.randn(32, 8)
    model = export(Twice(), x)
    rounded = adaround(model, four_bits(xnnpack()), [x], **SETTINGS)
    assert sorted(rounded.state_dict()) == ["layer.bias", "layer.weight_rounded"]


def test_weights_by_groups_and_run_time_activations(export):
    x = torch.randn(64, 64)
    model = export(nn.Sequential(nn.Linear(64, 8)), x)
    quantizer = xnnpack(is_dynamic=True, bits=4, group_size=32)
    rounded = adaround(model, quantizer, [x], **SETTINGS)
    graphs = [convert_pt2e(prepare_pt2e(it, quantizer)) for it in (model, rounded)]
    states = [sorted(graph.state_dict().items()) for graph in graphs]
    scales = [[value for key, value in state if key.endswith("scale")] for state in states]
    assert torch.equal(scales[0][0], scales[1][0])
    codes = [next(value for _key, value in state if value.dtype == torch.int8) for state in states]
    assert (codes[0].int() - codes[1].int()).abs().max() == 1
    assert (graphs[1](x) - model(x)).square().sum() < (graphs[0](x) - model(x)).square().sum()


def test_an_observer_that_cuts_ranges_is_said(export):
    def change(config):
        weight = QuantizationSpec(torch.int8, MSEObserver, -7, 7, torch.per_channel_symmetric, 0)
        return QuantizationConfig(config.input_activation, config.output_activation, weight, config.bias)

    x = torch.randn(32, 16)
    model = export(nn.Sequential(nn.Linear(16, 4)), x)
    with pytest.warns(NotRoundedWarning, match=r"1 quantized layers .*another scale .*linear"):
        rounded = adaround(model, xnnpack().with_configs(change), [x], **SETTINGS)
    assert torch.equal(rounded.state_dict()["0.weight"], model.state_dict()["0.weight"])


def test_transposed_layers_are_said(export):
    x = torch.randn(2, 4, 5, 5)
    with pytest.warns(NotRoundedWarning, match=r"1 quantized layers .*conv_transpose2d"):
        adaround(export(nn.Sequential(nn.ConvTranspose2d(4, 4, 2), nn.Conv2d(4, 4, 1)), x), xnnpack(), [x], **SETTINGS)


def test_other_backends_and_batches_by_name(export):
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(16, 8)

        def forward(self, x, scale):
            return self.layer(x) * scale

    x, scale = torch.randn(32, 16), torch.tensor(2.0)
    model = torch.export.export(Named().eval(), (), {"x": x, "scale": scale}).module()
    quantizer = X86Quantizer("onednn").set_global(get_default_x86_quantization_config())
    rounded = adaround(model, quantizer, [{"scale": scale, "x": x}], **SETTINGS)
    assert sorted(rounded.state_dict()) == ["layer.bias", "layer.weight_rounded"]


def test_mistakes_are_named(export):
    model = export(network(), torch.randn(2, 3, 12, 12))
    with pytest.raises(CalibrationError, match="no batch"):
        adaround(model, xnnpack(), [])
    with pytest.raises(InvalidSpecError, match="iterations=0"):
        adaround(model, xnnpack(), images(1), iterations=0)
