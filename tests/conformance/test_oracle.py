"""The oracle on graphs whose codes can be worked out by hand, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from torch.ao.quantization.fx import _decomposed  # noqa: F401  registers quantized_decomposed
from torch.nn import functional as F  # noqa: N812

import quantizer_sdk.conformance
from quantizer_sdk.conformance import run_oracle
from quantizer_sdk.errors import GraphError, InvalidSpecError, UnsupportedError

Q = torch.ops.quantized_decomposed
aten = torch.ops.aten


def quantize(x, scale=1.0, zero_point=0, low=-128, high=127, dtype=torch.int8):
    return Q.quantize_per_tensor(x, scale, zero_point, low, high, dtype)


def dequantize(codes, scale=1.0, zero_point=0, low=-128, high=127, dtype=torch.int8):
    return Q.dequantize_per_tensor(codes, scale, zero_point, low, high, dtype)


def through(x, scale=1.0, zero_point=0):
    return dequantize(quantize(x, scale, zero_point), scale, zero_point)


def exported(function, *examples, guards=False, **options):
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = torch.nn.Module()
            self.inner.register_buffer("weight", torch.tensor([[1, 2], [3, -4]], dtype=torch.int8))
            self.inner.register_buffer("scales", torch.tensor([0.5, 0.25]))
            self.inner.register_buffer("zeros", torch.tensor([0, 1]))
            self.inner.register_buffer("bias", torch.tensor([0.375, -2.0]))

        def forward(self, *xs):
            return function(self.inner, *xs)

    return torch.export.export(Model(), examples, **options).module(check_guards=guards)


def codes(*numbers, dtype=torch.int8):
    return torch.tensor([numbers], dtype=dtype)


X = torch.zeros(1, 2)


def per_channel(p, axis=0):
    return Q.dequantize_per_channel(p.weight, p.scales, p.zeros, axis, -128, 127, torch.int8)


def test_linear_by_hand():
    """Weights [0.5, 1.0] and [0.5, -1.25]; inputs 0.5·(7 - 3) = 2 and 0.5·(-2 - 3) = -2.5."""

    def model(p, x):
        return through(F.linear(through(x, 0.5, 3), per_channel(p), p.bias), 0.25, -1)

    site = run_oracle(exported(model, X), [codes(7, -2)]).outputs[0]
    # 1 - 2.5 + 0.375 = -1.125, over 0.25 = -4.5: half to even, -4; and 1 + 3.125 - 2 = 2.125, over 0.25 = 8.5: 8
    assert site.requantized.expected.tolist() == [[-5, 7]]
    assert site.requantized.r.tolist() == [[-4.5, 8.5]]
    assert site.requantized.half_distance.tolist() == [[0.0, 0.0]]
    assert not site.graph_delta.any()
    assert site.node.startswith("quantize_per_tensor")


def test_codes_continue_exactly_from_site_to_site():
    def model(_, x):
        first = through(F.relu(through(x, 0.5) * 3.0), 1.0, 2)
        return through(first + first, 4.0), through(first, 0.125)

    result = run_oracle(exported(model, X), [codes(-5, 1)])
    assert [site.requantized.expected.tolist() for site in result.sites] == [[[2, 4]], [[0, 1]], [[0, 16]]]
    assert [site.node for site in result.outputs] == [site.node for site in result.sites[1:]]


def test_a_quantize_may_be_an_output_and_outputs_may_repeat():
    def model(_, x):
        q = quantize(through(x) * 2.0)
        return q, dequantize(q), dequantize(q)

    result = run_oracle(exported(model, X), [codes(5, 6)])
    assert len(result.sites) == 1
    assert len(result.outputs) == 3
    assert all(site is result.sites[0] for site in result.outputs)


def test_other_integer_types():
    def model(_, x, y):
        a = dequantize(quantize(x, 0.5, 128, 0, 255, torch.uint8), 0.5, 128, 0, 255, torch.uint8)
        b = dequantize(quantize(y, 0.25, 0, -32768, 32767, torch.int16), 0.25, 0, -32768, 32767, torch.int16)
        return dequantize(quantize(a + b, 1.0, 0, -32768, 32767, torch.int16), 1.0, 0, -32768, 32767, torch.int16)

    inputs = [codes(130, 0, dtype=torch.uint8), codes(30000, -3, dtype=torch.int16)]
    site = run_oracle(exported(model, X, X + 1), inputs).outputs[0]
    assert site.requantized.expected.tolist() == [[7501, -65]]


def test_a_fused_relu6_clamps_before_rounding():
    def model(_, x):
        return through(aten.relu6(through(x) * 1.5), 4.0)

    site = run_oracle(exported(model, X), [codes(-9, 100)]).outputs[0]
    assert site.requantized.r.tolist() == [[0.0, 1.5]]
    assert site.requantized.expected.tolist() == [[0, 2]]


def test_inplace_relu_changes_its_operand():
    def model(_, x):
        y = through(x) * 2.0
        aten.relu_(y)
        return through(y)

    graph = exported(model, X)
    (relu,) = [node for node in graph.graph.nodes if node.target is aten.relu_.default]
    assert run_oracle(graph, [codes(-9, 9)]).outputs[0].requantized.expected.tolist() == [[0, 18]]
    (quantize_node,) = relu.users
    quantize_node.replace_input_with(relu, relu.args[0])
    assert run_oracle(graph, [codes(-9, 9)]).outputs[0].requantized.expected.tolist() == [[0, 18]]


def test_inputs_may_be_quantized_several_times_alike():
    graph = exported(lambda _, x: through(through(x, 0.5) + through(x, 0.5)), X)
    assert run_oracle(graph, [codes(5, 7)]).outputs[0].requantized.expected.tolist() == [[5, 7]]


def test_guards_are_passed_over():
    graph = exported(lambda _, x: through(through(x) * 2.0), X, guards=True)
    assert "_guards_fn" in {node.target for node in graph.graph.nodes}
    assert run_oracle(graph, [codes(5, 7)]).outputs[0].requantized.expected.tolist() == [[10, 14]]


def test_other_modules_are_refused():
    graph = exported(lambda _, x: through(through(x) * 2.0), X)
    graph.add_module("extra", torch.nn.Identity())
    with graph.graph.inserting_before(next(node for node in graph.graph.nodes if node.op == "output")):
        graph.graph.call_module("extra", (next(node for node in graph.graph.nodes if node.target is aten.mul.Tensor),))
    with pytest.raises(UnsupportedError, match="extra calls the module extra; expected operators only"):
        run_oracle(graph, [codes(5, 7)])


def test_dynamic_batch():
    graph = exported(
        lambda _, x: through(through(x).view(x.shape[0], 4)),
        torch.zeros(2, 2, 2),
        dynamic_shapes={"xs": ({0: torch.export.Dim("n", min=1, max=8)},)},
    )
    assert aten.sym_size.int in {node.target for node in graph.graph.nodes}
    q = torch.arange(12, dtype=torch.int8).reshape(3, 2, 2)
    assert torch.equal(run_oracle(graph, [q]).outputs[0].requantized.expected, q.reshape(3, 4).long())


def test_per_channel_weights_along_the_summed_axis():
    """An axis that no kernel supports is still a well-defined number: weights [[0.5, 0.25], [1.5, -1.25]]."""
    graph = exported(lambda p, x: through(F.linear(through(x), per_channel(p, axis=1)), 0.25), X)
    assert run_oracle(graph, [codes(1, 2)]).outputs[0].requantized.expected.tolist() == [[4, -4]]


def test_addmm_and_t():
    graph = exported(lambda p, x: through(torch.addmm(p.bias, through(x), per_channel(p).t()), 0.125), X)
    assert run_oracle(graph, [codes(1, 2)]).outputs[0].requantized.expected.tolist() == [[23, -32]]


def test_the_model_is_left_as_it_is():
    graph = exported(lambda p, x: through(F.linear(through(x), per_channel(p), p.bias)), X)
    before = str(graph.graph)
    run_oracle(graph, [codes(1, 2)])
    assert str(graph.graph) == before
    assert graph.inner.weight.tolist() == [[1, 2], [3, -4]]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (torch.erfinv, r"erfinv: aten\.erfinv\.default has no exact form here"),
        (lambda x: torch.add(x, x, alpha=2), r"add: aten\.add\.Tensor: expected alpha of 1"),
        (lambda x: F.pad(x, [1, 1], value=1.0), "expected a constant padding with 0"),
        (lambda x: F.pad(x[None], [1, 1], mode="circular"), "expected a constant padding with 0"),
        (lambda x: F.dropout(x, 0.5, training=True), "expected dropout outside training"),
        (lambda x: F.adaptive_avg_pool2d(x[None, None], (1, 2)), "expected one element of output"),
        (lambda x: x.mean(1, dtype=torch.float64).to(torch.float32), "expected a float32 result"),
        (lambda x: torch.max(x, 1)[0], r"aten\.max\.dim has no exact form here"),
        (lambda x: F.hardtanh(x, -0.3, 0.3) * x, r"mul of a value clamped at -.*; expected a quantize before it"),
    ],
)
def test_what_has_no_exact_form_is_refused_by_name(model, message):
    graph = exported(lambda _, x: through(model(through(x)).float()), X)
    with pytest.raises(UnsupportedError, match=message):
        run_oracle(graph, [codes(1, 2)])


def test_constants_in_double_precision_are_refused():
    graph = exported(lambda p, x: through((through(x) + p.bias).float()), X)
    graph.inner.bias = graph.inner.bias.double()
    with pytest.raises(
        UnsupportedError, match=r"aten\.add\.Tensor: a constant of dtype torch\.float64; expected float32"
    ):
        run_oracle(graph, [codes(1, 2)])


def test_unused_inputs_need_no_quantize():
    graph = exported(lambda _, x, y: through(through(y) * 2.0), X, X + 1)
    assert run_oracle(graph, [codes(0), codes(5, 7)]).outputs[0].requantized.expected.tolist() == [[10, 14]]


def test_integers_where_a_value_is_expected_are_refused():
    graph = exported(lambda p, x: through(through(x) + p.weight), X)
    with pytest.raises(UnsupportedError, match=r"aten\.add\.Tensor: an operand is a torch\.int8 tensor"):
        run_oracle(graph, [codes(1, 2)])


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda x: through(x + through(x)), "input xs_0 feeds .*; expected quantizes that are all alike"),
        (lambda x: through(through(x, 0.5) + through(x, 0.25)), "input xs_0 feeds .*; expected quantizes"),
        (lambda x: (through(through(x) * 2.0), x), "input xs_0 feeds"),
        (lambda x: through(x) * 2.0, "output mul is no quantized result; expected a dequantize of a quantize"),
        (through, "output .* is no quantized result"),
    ],
)
def test_graphs_that_are_not_quantized_throughout_are_refused(model, message):
    graph = exported(lambda _, x: model(x), X)
    with pytest.raises(GraphError, match=message):
        run_oracle(graph, [codes(1, 2)])


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([], "0 integer inputs; expected 1"),
        ([codes(1, 2), codes(1, 2)], "2 integer inputs; expected 1"),
        ([torch.zeros(1, 2)], r"got torch\.float32 codes; expected torch\.int8 in \[-128, 127\]"),
        ([codes(1, 2, dtype=torch.int16)], r"got torch\.int16 codes"),
    ],
)
def test_integer_inputs_that_do_not_fit_are_refused(inputs, message):
    graph = exported(lambda _, x: through(through(x) * 2.0), X)
    with pytest.raises(InvalidSpecError, match=message):
        run_oracle(graph, inputs)


def test_codes_beyond_the_declared_range_are_refused():
    def model(_, x):
        return through(dequantize(quantize(x, 1.0, 0, -7, 7), 1.0, 0, -7, 7) * 2.0)

    with pytest.raises(InvalidSpecError, match=r"expected torch\.int8 in \[-7, 7\]"):
        run_oracle(exported(model, X), [codes(1, 8)])


def test_every_public_name_has_a_docstring():
    for name in quantizer_sdk.conformance.__all__:
        assert getattr(quantizer_sdk.conformance, name).__doc__, name
