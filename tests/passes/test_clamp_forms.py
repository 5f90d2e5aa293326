"""Clamps that are merged, moved before pools, or written for the gemm before them, compute exactly what they did."""

import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from quantizer_sdk.passes.clamp_forms import arrange_clamps

ATEN = torch.ops.aten
CONV = nn.Conv2d(3, 3, 3)


class Run(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function, self.conv = function, CONV
        self.register_buffer("w", torch.randn(6, 5))
        self.register_buffer("b", torch.randn(5))

    def forward(self, x):
        return self.function(self, x)


CASES = {
    "merged": (lambda _, x: x.relu().clamp(max=0.4), ["hardtanh"]),
    "merged_three": (lambda _, x: F.relu6(x.clamp(-0.3, 9.0)).clamp(min=0.1), ["hardtanh"]),
    "pool": (lambda _, x: F.max_pool2d(x, 2, padding=1).clamp(-0.2, 0.2), ["hardtanh", "max_pool2d"]),
    "pools": (lambda _, x: F.max_pool2d(F.max_pool2d(x, 2), 2, 1).relu(), ["relu", "max_pool2d", "max_pool2d"]),
    "conv_pool": (lambda m, x: F.max_pool2d(m.conv(x), 2).clamp(max=0.2), ["conv2d", "hardtanh", "max_pool2d"]),
    "conv": (lambda m, x: m.conv(x).clamp(min=0.1), ["conv2d", "hardtanh"]),
    "conv_relu": (lambda m, x: m.conv(x).clamp(min=0), ["conv2d", "relu"]),
    "addmm": (lambda m, x: torch.addmm(m.b, x.flatten(2)[0, :, :6], m.w).relu(), ["addmm", "relu"]),
    "addmm_clamp": (lambda m, x: torch.addmm(m.b, x.flatten(2)[0, :, :6], m.w).clamp(max=1), ["addmm", "hardtanh"]),
    "read_twice": (lambda _, x: [y := F.max_pool2d(x, 2), y + y.relu()][1], ["max_pool2d", "relu", "add"]),
    "between_read_twice": (lambda _, x: [y := x.relu(), y + y.clamp(max=0.2)][1], ["relu", "clamp", "add"]),
    "by_tensors": (lambda m, x: x.relu().clamp(max=m.b[0]), ["relu", "clamp"]),
    "alone": (lambda _, x: x.clamp(max=0.2), ["clamp"]),
}


@pytest.mark.parametrize("name", CASES)
def test_forms_are_exact(name, export):
    function, names = CASES[name]
    x = torch.randn(2, 3, 6, 6)
    model = export(Run(function), x)
    expected = model(x)
    arrange_clamps(model)
    model.graph.lint()
    model.recompile()
    assert torch.equal(model(x), expected)
    called = [node.target.__name__.split(".")[0] for node in model.graph.nodes if node.op == "call_function"]
    assert [name for name in called if name not in {"flatten", "slice", "select"}] == names


@pytest.mark.parametrize(
    ("inner", "outer"),
    list(itertools.product(((-1.0, 1.0), (0.0, math.inf), (2.0, 3.0), (-math.inf, -2.0)), repeat=2)),
)
def test_merged_bounds(inner, outer, export):
    x = torch.linspace(-4, 4, 41)
    model = export(Run(lambda _, x: F.hardtanh(F.hardtanh(x, *inner), *outer)), x)
    expected = model(x)
    arrange_clamps(model)
    model.recompile()
    assert torch.equal(model(x), expected)
    assert sum(node.target in {ATEN.hardtanh.default, ATEN.relu.default} for node in model.graph.nodes) == 1
