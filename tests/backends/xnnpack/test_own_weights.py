"""Shared weights and shapes that ExecuTorch's compiler fails on unless the backend takes care."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from quantizer_sdk import calibrate, convert_pt2e, explain, prepare_pt2e
from quantizer_sdk.backends.xnnpack import BACKEND


class Twice(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(torch.relu(self.layer(x)))


def quantized(export, module, *inputs):
    prepared = prepare_pt2e(export(module, *inputs), BACKEND.quantizer())
    calibrate(prepared, [inputs])
    return convert_pt2e(prepared)


@pytest.mark.parametrize(
    "layer", [nn.Conv1d(4, 4, 3, padding=1), nn.ConvTranspose1d(4, 4, 3, padding=1)], ids=["conv", "transposed"]
)
def test_a_layer_called_twice_runs(layer, export):
    x = torch.randn(1, 4, 9)
    model = quantized(export, Twice(layer), x)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    program = BACKEND.lower(model, [x])
    (found,) = program.run(x)
    step = next(node for node in reversed(model.graph.nodes) if "quantize_per_tensor" in node.name).args[1]
    assert ((found - model(x)).abs() / step).round().max() <= 1
    assert all(kernel.integer or kernel.conversion for kernel in program.kernels())
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("run", "shape", "reason"),
    [
        (lambda x: F.max_pool2d(F.relu(x), 2), (3, 8, 8), "an input of rank 3; the kernel pools rank 4"),
        (lambda x: F.adaptive_avg_pool2d(F.relu(x), 1), (3, 8, 8), "an input of rank 3; the kernel averages rank 4"),
        (lambda x: torch.cat([x.relu()] * 2, 1), (2, 3), "one tensor joined with itself"),
    ],
    ids=["max_pool", "avg_pool", "cat"],
)
def test_what_has_no_kernel_is_refused_with_its_reason(run, shape, reason, export):
    class Run(nn.Module):
        def forward(self, x):
            return run(x)

    report = explain(export(Run(), torch.randn(shape)), BACKEND.quantizer())
    assert any(op.reason is not None and reason in op.reason for op in report.ops), report


def test_channels_padded_before_a_convolution_are_no_part_of_its_kernel(export):
    class Run(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            return self.conv(F.pad(x, (1, 1, 1, 1, 0, 1)))

    x = torch.randn(1, 2, 6, 6)
    model = quantized(export, Run(), x)
    assert {op.row for op in explain(model).ops} == {"pad", "conv"}
    (found,) = BACKEND.lower(model, [x]).run(x)
    step = next(node for node in reversed(model.graph.nodes) if "quantize_per_tensor" in node.name).args[1]
    assert ((found - model(x)).abs() / step).round().max() <= 1
