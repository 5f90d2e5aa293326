"""Convolutions whose activations each run quantizes: a scale for each sample or pixel, exact numbers, refusals."""

import re

import dynamic_kernels as dynamic
import pytest
import torch
from torch import nn
from torch.nn import functional

from quantizer_sdk import convert_pt2e, explain, prepare_pt2e
from quantizer_sdk.backends.xnnpack import XNNPACKQuantizer, lower

pytest.importorskip("executorch")

CONVS = {
    "3x3": nn.Conv2d(3, 8, 3),
    "no_bias": nn.Conv2d(3, 8, 3, bias=False),
    "padded": nn.Conv2d(3, 8, (3, 2), padding=(1, 0)),
    "same": nn.Conv2d(3, 8, 3, padding="same"),
    "strided": nn.Conv2d(4, 8, 3, stride=2, padding=1),
    "dilated": nn.Conv2d(4, 8, 3, dilation=2),
    "grouped": nn.Conv2d(16, 8, 3, groups=4),
    "grouped_1x1": nn.Conv2d(16, 8, 1, groups=2),
    "strided_1x1": nn.Conv2d(16, 8, 1, stride=(1, 2)),
    "padded_1x1": nn.Conv2d(16, 8, 1, padding=1),
}
POINTWISE = {
    "1x1": nn.Conv2d(16, 8, 1),
    "odd": nn.Conv2d(13, 5, 1, bias=False),
    "valid": nn.Conv2d(16, 8, 1, padding="valid"),
    "dilated": nn.Conv2d(16, 8, 1, dilation=2),
}
TRANSPOSED = {
    "3x3": nn.ConvTranspose2d(4, 8, 3),
    "strided": nn.ConvTranspose2d(4, 8, 3, stride=2, padding=1, output_padding=1, bias=False),
    "dilated": nn.ConvTranspose2d(4, 8, 3, dilation=2),
    "1x1": nn.ConvTranspose2d(16, 8, 1),
}


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.pointwise = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 1)

    def forward(self, x):
        return self.a(x) + self.b(x), self.pointwise(x)


class Before(nn.Module):
    def __init__(self, before):
        super().__init__()
        self.before, self.conv = before, nn.Conv2d(3, 4, 3)

    def forward(self, x):
        x = self.before(x)
        return self.conv(x), x - 1.0


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.depthwise, self.pointwise = nn.Conv2d(8, 8, 3, groups=8, padding=1), nn.Conv2d(8, 8, 1)
        self.up, self.fc = nn.ConvTranspose2d(8, 4, 2, stride=2), nn.Linear(16, 5)

    def forward(self, x):
        stem = self.norm(self.conv(x)).relu()
        image = self.up(self.pointwise(self.depthwise(stem).relu()) + stem)
        return self.fc(image), self.conv(x), image


def images(channels):
    """Three samples of very different ranges."""
    return torch.randn(3, channels, 9, 8) * torch.tensor([1.0, 5.0, 0.1]).reshape(3, 1, 1, 1) + 0.3


def arguments_of(module):
    names = ("stride", "padding", "dilation", "groups")
    names = (*names, "output_padding") if isinstance(module, nn.ConvTranspose2d) else names
    return {name: getattr(module, name) for name in names}


def assert_exact(export, module, kernel, function, axes):
    x = images(module.in_channels)
    model = dynamic.quantized(export, module, x)
    program, kernels = dynamic.lowered(model, x)
    types = (kernel, "qdint8", "qcint8") if module.bias is None else (kernel, "qdint8", "qcint8", "fp32")
    assert [found for found in kernels if found[0] != "StaticTranspose"] == [types]
    (y,) = program.run(x)
    assert torch.equal(y, dynamic.convolution(x, model.state_dict(), function, axes, **arguments_of(module)))
    assert torch.allclose(y, model(x), rtol=0, atol=1e-6 * float(y.abs().max()) + 1e-6)


@pytest.mark.parametrize("form", CONVS)
def test_a_scale_for_each_sample(export, form):
    assert_exact(export, CONVS[form], "Conv2d", functional.conv2d, (1, 2, 3))


@pytest.mark.parametrize("form", POINTWISE)
def test_a_scale_for_each_pixel_of_a_pointwise_convolution(export, form):
    assert_exact(export, POINTWISE[form], "Conv2d", functional.conv2d, 1)


@pytest.mark.parametrize("form", TRANSPOSED)
def test_transposed(export, form):
    assert_exact(export, TRANSPOSED[form], "ConvTranspose2d", functional.conv_transpose2d, (1, 2, 3))


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.ReLU6()])
@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
def test_batch_norm_and_activations_are_fused(export, kind, activation):
    norm = nn.BatchNorm2d(8)
    norm.running_mean.uniform_(-1, 1)
    norm.running_var.uniform_(0.5, 2)
    x = 3 * images(4)
    model = dynamic.quantized(export, nn.Sequential(kind(4, 8, 3), norm, activation), x)
    program, kernels = dynamic.lowered(model, x)
    assert [kernel[:3] for kernel in kernels if kernel[0] != "StaticTranspose"] == [
        ("Conv2d" if kind is nn.Conv2d else "ConvTranspose2d", "qdint8", "qcint8")
    ]
    state = {key.removeprefix("0."): value for key, value in model.state_dict().items()}
    function = functional.conv2d if kind is nn.Conv2d else functional.conv_transpose2d
    assert torch.equal(program.run(x)[0], activation(dynamic.convolution(x, state, function)))


def test_open_batch_and_readers_of_one_tensor(export, tmp_path):
    shapes = ({0: torch.export.Dim("batch", max=8)},)
    quantizer = XNNPACKQuantizer().set_operator_type(torch.ops.aten.conv2d.default, dynamic.config())
    x = images(3)
    model = convert_pt2e(prepare_pt2e(export(Branches(), x, dynamic_shapes=shapes), quantizer))
    assert sum("choose_qparams_per_block" in str(node.target) for node in model.graph.nodes) == 2
    program, kernels = dynamic.lowered(model, x, dynamic_shapes=shapes)
    assert [kernel[:3] for kernel in kernels if kernel[0] == "Conv2d"] == [("Conv2d", "qdint8", "qcint8")] * 3
    torch.export.save(torch.export.export(model, (x,), dynamic_shapes=(shapes,)), tmp_path / "model.pt2")
    again = torch.export.load(tmp_path / "model.pt2").module()
    for size in (1, 8, 5):
        x = torch.randn(size, 3, 9, 8)
        for actual, expected, loaded in zip(program.run(x), model(x), again(x), strict=True):
            assert torch.allclose(actual, expected, rtol=0, atol=1e-5)
            assert torch.equal(expected, loaded)


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (nn.Conv2d(8, 8, 3, groups=8), "one input channel a group; .* no depthwise kernel"),
        (nn.Conv2d(1, 8, 3), "one input channel a group"),
        (nn.ConvTranspose2d(1, 8, 3), "one input channel a group"),
        (nn.ConvTranspose2d(4, 8, 3, groups=2), "groups=2"),
        (nn.Conv2d(3, 8, 2, padding="same"), "padding='same' pads one side more"),
    ],
    ids=["depthwise", "one_channel", "transposed_one_channel", "transposed_grouped", "same"],
)
def test_without_a_kernel_it_stays_float(export, module, words):
    x, second = images(module.in_channels), nn.Conv2d(8, 4, 3)
    model = dynamic.quantized(export, nn.Sequential(module, second), x)
    first, last = explain(model).ops
    assert (first.state, last.state) == ("float", "quantized")
    assert re.search(words, first.reason)
    program, _ = dynamic.lowered(model, x)
    # The float layer sums in another order: a code of the second one's operand may be another, at any of its weights.
    between = module(x)
    code = float((between.max() - between.min()) / 255 * second.weight.abs().max())
    assert torch.allclose(program.run(x)[0], model(x), rtol=0, atol=min(2 * code, 0.2))


def test_an_image_without_a_batch_stays_float(export):
    x = images(3)[0]
    model = dynamic.quantized(export, nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(1), nn.Linear(42, 4)), x)
    (record,) = [record for record in explain(model).ops if record.node == "conv2d"]
    assert "a weight of rank 4 on rank 3" in record.reason


@pytest.mark.parametrize(
    ("before", "shape"),
    [
        (lambda x: x.reshape(5, 3, 4, 4), (5, 48)),
        (lambda x: x.permute(0, 3, 1, 2), (5, 4, 4, 3)),
        (lambda x: x[:, 1:4], (5, 6, 4, 4)),
        (lambda x: x + x.relu(), (5, 3, 4, 4)),
        (lambda x: torch.cat((x, x.relu(), x), 1)[:, :3], (5, 2, 4, 4)),
        (lambda x: functional.max_pool2d(x, 2), (5, 3, 8, 8)),
    ],
    ids=["reshape", "permute", "slice", "add", "cat", "max_pool"],
)
def test_what_stands_before_it_is_not_moved_to_channels_last(export, before, shape):
    x = torch.randn(shape)
    model = dynamic.quantized(export, Before(before), x)
    program, kernels = dynamic.lowered(model, x)
    assert ("Conv2d", "qdint8", "qcint8", "fp32") in kernels
    for actual, expected in zip(program.run(x), model(x), strict=True):
        assert torch.allclose(actual, expected, rtol=0, atol=2e-6)


def test_a_net_of_all_kinds(export):
    x = torch.randn(2, 3, 8, 8)
    model = dynamic.quantized(export, Net(), x)
    program = lower(model, (x,))
    gemms = [(kernel.name, kernel.inputs[0]) for kernel in program.kernels() if "qcint8" in kernel.inputs]
    assert gemms == [("Conv2d", "qdint8")] * 3 + [("ConvTranspose2d", "qdint8"), ("FullyConnected", "qdint8")]
    for actual, expected in zip(program.run(x), model(x), strict=True):
        assert torch.allclose(actual, expected, rtol=0, atol=5e-6)
