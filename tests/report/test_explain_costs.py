"""Parameters and multiplications, against torch's own counter of operations."""

import pytest
import torch
from quantizers import CONFIG, Apply, SmallTable
from torch import nn
from torch.export import Dim
from torch.utils.flop_counter import FlopCounterMode

from quantizer_sdk import explain

IMAGE, ROWS = torch.randn(2, 4, 9, 9), torch.randn(2, 5, 8)
MODELS = {
    "conv1d": (nn.Conv1d(5, 6, 3, bias=False), ROWS),
    "conv2d": (nn.Conv2d(4, 6, 3, stride=2, padding=1), IMAGE),
    "depthwise": (nn.Conv2d(4, 8, 3, groups=4), IMAGE),
    "padded by name": (nn.Conv2d(4, 6, 3, padding="same"), IMAGE),
    "conv3d": (nn.Conv3d(4, 2, 3), torch.randn(1, 4, 5, 5, 5)),
    "transposed": (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), IMAGE),
    "linear": (nn.Linear(8, 3), ROWS),
    "matmul": (Apply(lambda self, x: x @ x.transpose(1, 2)), ROWS),
    "bmm": (Apply(lambda self, x: torch.bmm(x, x.transpose(1, 2))), ROWS),
    "baddbmm": (Apply(lambda self, x: torch.baddbmm(torch.zeros(5), x, x.transpose(1, 2))), ROWS),
    "mm": (Apply(lambda self, x: x[0] @ x[1].t()), ROWS),
    "addmm": (Apply(lambda self, x: torch.addmm(torch.zeros(5), x[0], x[1].t())), ROWS),
    "attention": (Apply(lambda self, x: nn.functional.scaled_dot_product_attention(x, x, x[..., :3])), ROWS[:, None]),
}


@pytest.mark.parametrize("name", MODELS)
def test_macs_are_half_of_what_torch_counts(export, name):
    module, x = MODELS[name]
    module.eval()
    with FlopCounterMode(display=False) as counter:
        module(x)
    explanation = explain(export(module, x), SmallTable().set_global(CONFIG))
    counted = sum(op.macs or 0 for op in explanation.ops)
    assert counted == counter.get_total_flops() / 2
    assert counted > 0


@pytest.mark.parametrize("name", ["conv2d", "depthwise", "linear"])
def test_parameters_are_those_of_the_module(export, name):
    module, x = MODELS[name]
    explanation = explain(export(module, x), SmallTable().set_global(CONFIG))
    assert explanation.parameters("quantized") == sum(parameter.numel() for parameter in module.parameters())


def test_a_weight_that_two_ops_read_counts_once(export):
    shared = nn.Linear(8, 8)
    model = export(Apply(lambda self, x: self.a(torch.sigmoid(self.a(x))), a=shared), ROWS)
    explanation = explain(model, SmallTable().set_global(CONFIG))
    assert [op.parameters for op in explanation.ops] == [72, 0, 0]
    assert explanation.macs("quantized") == 2 * 2 * 5 * 64


def test_a_weight_behind_ops_on_constants_counts_with_its_reader(export):
    model = export(Apply(lambda self, x: x @ self.w.t(), w=nn.Parameter(torch.randn(3, 8))), ROWS)
    found = {op.op: (op.parameters, op.macs) for op in explain(model, SmallTable().set_global(CONFIG)).ops}
    assert found == {"aten.t.default": (0, None), "aten.matmul.default": (24, 2 * 5 * 8 * 3)}


def test_folded_norms_leave_their_parameters_to_the_layer(export):
    module = nn.Sequential(nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6))
    explanation = explain(export(module, IMAGE), SmallTable().set_global(CONFIG))
    assert {op.state: op.parameters for op in explanation.ops} == {"quantized": 4 * 6 * 9 + 6, "folded": 0}


def test_open_sizes_count_as_in_the_example(export):
    model = export(nn.Linear(8, 3), ROWS, dynamic_shapes=({0: Dim("batch", min=2, max=64)},))
    explanation = explain(model, SmallTable().set_global(CONFIG))
    assert explanation.macs("quantized") == 2 * 5 * 8 * 3
    assert explanation.open_sizes
    assert explanation.to_dict()["open_sizes"]
    assert "with open sizes as in the example" in str(explanation)
    assert not explain(export(nn.Linear(8, 3), ROWS), SmallTable().set_global(CONFIG)).open_sizes


def test_totals_by_state(export):
    module = nn.Sequential(nn.Conv2d(4, 4, 2), nn.Conv2d(4, 4, 3))
    found = explain(export(module, IMAGE), SmallTable().set_global(CONFIG)).to_dict()
    assert found["totals"]["float"] == found["totals"]["quantized"] == 1
    assert found["parameters"] == {"quantized": 148, "shared": 0, "passthrough": 0, "folded": 0, "float": 68}
    assert found["macs"]["quantized"] == 2 * 4 * 36 * 36
    assert found["macs"]["float"] == 2 * 4 * 64 * 16
