"""What a comparison prints, draws and refuses."""

import io
import json
import math

import pytest
import torch
from quantizers import CONFIG, SmallTable
from torch import nn

from quantizer_sdk import (
    AlreadyConvertedError,
    AlreadyPreparedError,
    ComparisonError,
    NotExportedError,
    NotPreparedError,
    UncalibratedError,
    calibrate,
    compare,
    convert_pt2e,
    prepare_pt2e,
)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 6, 3), nn.Linear(24, 5)

    def forward(self, x):
        return {"scores": self.fc(torch.relu(self.conv(x)).flatten(1))}


@pytest.fixture(scope="module")
def graphs(export):
    torch.manual_seed(0)
    images = [torch.randn(2, 3, 4, 4) for _ in range(2)]
    model = export(Net(), images[0])
    prepared = prepare_pt2e(model, SmallTable().set_global(CONFIG))
    calibrate(prepared, images)
    return model, prepared, convert_pt2e(prepared), images


@pytest.fixture(scope="module")
def comparison(graphs):
    model, _prepared, converted, images = graphs
    return compare(model, converted, images, histograms=True)


def test_it_prints_the_worst_layers_with_their_lines(comparison):
    lines = str(comparison).splitlines()
    assert lines[0] == "3 layers, 2 batches"
    assert lines[1].startswith("  output 0: ")
    worst = comparison.ranked()[0]
    assert worst.node in lines[3]
    assert f"{100 * worst.blame:.1f} %" in lines[3]
    assert any("at " in line and "self.fc(torch.relu" in line for line in lines)


def test_blame_is_shared_out(comparison):
    assert sum(layer.blame for layer in comparison.layers) == pytest.approx(1)
    shares = [layer.blame for layer in comparison.ranked()]
    assert shares == sorted(shares, reverse=True)


def test_a_layer_is_found_by_each_of_its_ops(comparison):
    assert comparison.layer("relu") is comparison.layer("conv2d")
    with pytest.raises(KeyError, match="no layer has an op 'nowhere'; there are x, conv2d, linear"):
        comparison.layer("nowhere")


def test_it_is_plain_data(comparison):
    data = json.loads(comparison.to_json())
    assert [layer["node"] for layer in data["layers"]] == ["x", "conv2d", "linear"]
    assert data["layers"][1]["members"] == ["conv2d", "relu"]
    assert data["layers"][1]["sqnr"] == comparison.layers[1].sqnr


def test_infinities_become_words(export, graphs):
    _model, _prepared, _converted, images = graphs
    model = export(Net(), images[0])
    prepared = prepare_pt2e(model, SmallTable().set_global(CONFIG).set_module_name("conv", None))
    calibrate(prepared, images)
    found = compare(model, prepared, images)
    assert found.layer("conv2d").own_sqnr == math.inf
    assert "exact" in str(found)
    assert '"own_sqnr": "inf"' in found.to_json()


def test_the_spread_is_that_of_the_float_values(graphs, comparison):
    _model, _prepared, _converted, images = graphs
    values = torch.cat(images)
    spread = comparison.layer("x").spread
    assert sum(spread.counts) == values.numel()
    assert spread.low <= values.min()
    assert spread.high >= values.max()
    assert spread.channel_low == tuple(values.amin((0, 2, 3)).tolist())
    assert spread.channel_high == tuple(values.amax((0, 2, 3)).tolist())
    half = (spread.clip_high - spread.clip_low) / 255 / 2
    outside = (values < spread.clip_low - half) | (values > spread.clip_high + half)
    assert spread.clipped == pytest.approx(outside.double().mean().item())
    assert comparison.layer("conv2d").spread.low == 0


def test_pictures_are_written(comparison, tmp_path):
    comparison.plot(tmp_path / "layers.svg")
    assert "conv: conv2d" in (tmp_path / "layers.svg").read_text()
    for draw in (comparison.plot, comparison.plot_histograms, comparison.plot_channels):
        picture = io.BytesIO()
        draw(picture, layers=["conv2d"])
        assert picture.getvalue().startswith(b"\x89PNG")


def test_pictures_of_values_need_the_values(graphs):
    model, prepared, _converted, images = graphs
    with pytest.raises(ComparisonError, match="histograms=True"):
        compare(model, prepared, images).plot_channels(io.BytesIO())


def test_no_data_is_an_error(graphs):
    model, prepared, _converted, _images = graphs
    with pytest.raises(ComparisonError, match="the data holds no batch at all"):
        compare(model, prepared, [])


def test_models_in_the_wrong_order_are_an_error(graphs):
    model, prepared, converted, images = graphs
    with pytest.raises(AlreadyConvertedError, match="the first argument of compare is the exported float model"):
        compare(converted, model, images)
    with pytest.raises(AlreadyPreparedError, match="the reference holds 6 observers"):
        compare(prepared, model, images)
    with pytest.raises(NotPreparedError, match="holds neither observers nor q/dq ops"):
        compare(model, model, images)
    with pytest.raises(NotExportedError, match=r"compare was given a Net that was not exported"):
        compare(Net(), converted, images)


def test_what_is_not_calibrated_is_an_error(graphs):
    model, _prepared, _converted, images = graphs
    with pytest.raises(UncalibratedError, match="have seen no data"):
        compare(model, prepare_pt2e(model, SmallTable().set_global(CONFIG)), images)


class Other(nn.Module):
    def __init__(self, forward):
        super().__init__()
        self.fc, self.run = nn.Linear(48, 5), forward

    def forward(self, *inputs):
        return self.run(self.fc, *inputs)


@pytest.mark.parametrize(
    ("run", "inputs", "message"),
    [
        (lambda fc, x: fc(x.flatten(1)), 1, "the models' outputs differ in structure"),
        (lambda fc, x, y: {"scores": fc((x + y).flatten(1))}, 2, "the reference takes 2 inputs, the quantized model 1"),
        (lambda _fc, x: {"scores": torch.tanh(x)}, 1, "no twins"),
    ],
)
def test_models_that_are_no_twins_are_an_error(export, graphs, run, inputs, message):
    _model, prepared, _converted, images = graphs
    with pytest.raises(ComparisonError, match=message):
        compare(export(Other(run), *images[:1] * inputs), prepared, [images[0] if inputs == 1 else tuple(images)])
