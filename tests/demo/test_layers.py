import pytest
import torch
from torch import nn

from quantizer_sdk import calibrate, convert_pt2e, find_backend, prepare_pt2e
from quantizer_sdk.demo.layers import layer_sqnr


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.project = nn.Conv2d(8, 3, 1)
        self.norm_of_project = nn.BatchNorm2d(3)

    def forward(self, x):
        return x + self.norm_of_project(self.project(torch.relu(self.norm(self.conv(x)))))


@pytest.fixture
def graphs():
    torch.manual_seed(0)
    net = Net()
    for norm in (net.norm, net.norm_of_project):
        nn.init.uniform_(norm.weight, 0.5, 2)
        nn.init.normal_(norm.bias)
        nn.init.uniform_(norm.running_var, 0.5, 2)
    images = torch.randn(4, 3, 8, 8)
    program = torch.export.export(net.eval(), (images[:1],))
    prepared = prepare_pt2e(program.module(), find_backend("xnnpack").quantizer())
    calibrate(prepared, images.split(1))
    return program.module(), convert_pt2e(prepared), images


def test_a_layer_for_each_quantized_activation(graphs):
    reference, converted, images = graphs
    layers = {layer.node: layer for layer in layer_sqnr(reference, converted, images.split(1))}
    # The first convolution requantizes at the relu that its kernel fuses.
    assert set(layers) == {"x", "relu", "conv2d_1", "add"}
    assert layers["relu"].module == ""
    assert all(25 < layer.sqnr < 70 for layer in layers.values())


def test_a_folded_batch_norm_is_what_its_convolution_is_compared_with(graphs):
    reference, converted, images = graphs
    layers = {layer.node: layer for layer in layer_sqnr(reference, converted, images.split(1))}
    assert layers["conv2d_1"].op == "aten.batch_norm.default"
    assert layers["conv2d_1"].module == "norm_of_project"


def test_noise_is_pooled_over_batches(graphs):
    reference, converted, images = graphs
    one = layer_sqnr(reference, converted, [images[:1]])
    twice = layer_sqnr(reference, converted, [images[:1], images[:1]])
    assert [layer.sqnr for layer in twice] == pytest.approx([layer.sqnr for layer in one])
