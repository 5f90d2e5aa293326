"""Rewrites before lowering: padding quantized for float readers, weights of a run, factors of addmm."""

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from quantizer_sdk.passes.float_products import detach_run_time_weights, write_out_addmm
from quantizer_sdk.passes.quantize_padding import quantize_padding
from quantizer_sdk.qdq import is_dequantize, is_quantize

OPS = torch.ops.quantized_decomposed
LIMITS = (0.03, -7, -128, 127, torch.int8)


def rounded(x):
    return OPS.dequantize_per_tensor.default(OPS.quantize_per_tensor.default(x, *LIMITS), *LIMITS)


class Run(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function, self.conv = function, nn.Conv2d(3, 2, 3)
        self.register_buffer("w", torch.randint(-127, 128, (2, 3, 3, 3), dtype=torch.int8))
        self.register_buffer("b", torch.randn(5))

    def forward(self, *inputs):
        return self.function(self, *inputs)

    def codes(self):
        return OPS.dequantize_per_tensor.default(self.w, 0.1, 0, -127, 127, torch.int8)


def count(model, of):
    return sum(map(of, model.graph.nodes))


def test_padding_is_quantized_for_each_float_reader_alone(export):
    def function(m, x):
        padded = F.pad(rounded(x), (1, 1))
        return torch.erf(padded), rounded(padded), F.conv2d(padded, m.codes()), padded

    x = torch.randn(1, 3, 5, 5)
    model = export(Run(function), x)
    expected, before = model(x), count(model, is_quantize)
    quantize_padding(model)
    model.graph.lint()
    assert all(torch.equal(one, other) for one, other in zip(model(x), expected, strict=True))
    assert count(model, is_quantize) == before + 2  # erf's and the output's
    pads = [node for node in model.graph.nodes if node.target is torch.ops.aten.pad.default]
    assert len(pads) == 3
    assert all(len(node.users) == 1 for pad in pads for node in pad.all_input_nodes)


def test_padding_with_ones_is_left_alone(export):
    x = torch.randn(1, 3, 5, 5)
    model = export(Run(lambda _, x: torch.erf(F.pad(rounded(x), (1, 1), value=1.0))), x)
    before = str(model.graph)
    quantize_padding(model)
    assert str(model.graph) == before


def test_weights_of_a_run_are_detached_and_stored_ones_are_not(export):
    x, y = torch.randn(1, 3, 5, 5), torch.randn(2, 3, 3, 3)
    model = export(Run(lambda m, x, y: F.conv2d(rounded(x), rounded(y)) + F.conv2d(rounded(x), m.codes())), x, y)
    expected = model(x, y)
    detach_run_time_weights(model)
    model.graph.lint()
    assert torch.equal(model(x, y), expected)
    (one,) = model.graph.find_nodes(op="call_function", target=torch.ops.aten.mul.Scalar)
    assert is_dequantize(one.args[0])


def test_factors_of_addmm_are_written_out(export):
    a, b = torch.randn(4, 6), torch.randn(6, 5)
    model = export(Run(lambda m, a, b: torch.addmm(m.b, a, b, alpha=2, beta=0.5) + torch.addmm(m.b, a, b)), a, b)
    expected = model(a, b)
    write_out_addmm(model)
    model.graph.lint()
    torch.testing.assert_close(model(a, b), expected)
    assert len(model.graph.find_nodes(op="call_function", target=torch.ops.aten.addmm.default)) == 1
