"""A converted graph read as kernels, as a fingerprint, and under each kind of data."""

import pytest
import torch
from tiny_backends import Tiny
from torch import nn

from quantizer_sdk import calibrate, convert_pt2e, prepare_pt2e
from quantizer_sdk.conformance.bench import computed_quantizes, graph_codes, input_quantizes, tap
from quantizer_sdk.conformance.fingerprint import fingerprint
from quantizer_sdk.conformance.kernels import Kernels, QParams
from quantizer_sdk.conformance.regimes import codes_for, impose
from quantizer_sdk.errors import GraphError

aten = torch.ops.aten
X = torch.randn(4, 6)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))


@pytest.fixture(scope="module")
def exported(export):
    torch.manual_seed(0)
    return export(Net(), X)


def converted(exported, data="generic"):
    prepared = prepare_pt2e(exported, Tiny())
    calibrate(prepared, [(X,)])
    impose(prepared, data)
    return convert_pt2e(prepared)


def test_ops_between_dequantize_and_quantize_are_a_kernel(exported):
    kernels = Kernels.of(converted(exported))
    assert [kernel.targets for kernel in kernels.found] == [
        (aten.linear.default, aten.relu.default),
        (aten.linear.default,),
    ]
    assert kernels.loose == ()
    assert [len(kernel.sources) for kernel in kernels.found] == [2, 2]  # activation and weight
    assert [len(kernel.parameters) for kernel in kernels.found] == [1, 1]  # the float bias


def test_an_op_whose_result_nothing_quantizes_is_loose(export):
    model = export(nn.Sequential(nn.Linear(6, 5), nn.Softmax(-1)), X)
    (loose,) = Kernels.of(converted(model)).loose
    assert "softmax" in loose.name


def test_qparams_are_read_per_tensor_and_per_channel(exported):
    model = converted(exported)
    weights = [QParams.of(model, node) for node in model.graph.nodes if "per_channel" in str(node.target)]
    assert [(len(q.scales), q.axis, q.quant_min) for q in weights] == [(5, 0, -127), (3, 0, -127)]
    (first, *_) = (QParams.of(model, node) for node in input_quantizes(model))
    assert (first.axis, first.dtype, len(first.scales)) == (None, torch.int8, 1)


@pytest.mark.parametrize(("data", "zero_points"), [("zp_odd", {5, -128}), ("zp_even", {4, -128})])
def test_dyadic_scales_hold_what_was_seen(exported, data, zero_points):
    plain, dyadic = converted(exported), converted(exported, data)
    for before, after in zip(quantizes(plain), quantizes(dyadic), strict=True):
        assert after.scales[0] == 2.0 ** round(torch.log2(torch.tensor(after.scales[0])).item())
        assert after.zero_points[0] in zero_points
        for end in (before.quant_min, before.quant_max):
            real = before.scales[0] * (end - before.zero_points[0])
            code = real / after.scales[0] + after.zero_points[0]
            assert after.quant_min - 1 <= code <= after.quant_max + 1


def quantizes(model):
    return [QParams.of(model, node) for node in (*input_quantizes(model), *computed_quantizes(model))]


def weight_scales(model):
    found = (QParams.of(model, node) for node in model.graph.nodes if "per_channel" in str(node.target))
    return [scale for qparams in found for scale in qparams.scales]


@pytest.mark.parametrize("data", ["extreme_up", "extreme_down"])
def test_extreme_ratios_are_those_of_the_last_result(exported, data):
    model = converted(exported)
    plain, extreme = quantizes(model), quantizes(converted(exported, data))
    *before, last = (qparams.scales[0] for qparams in plain)
    wanted = 128 * last if data == "extreme_down" else max(before) * max(weight_scales(model)) / 2
    assert extreme[-1].scales[0] == pytest.approx(wanted, rel=1e-6)  # float32 products
    assert extreme[:-1] == plain[:-1]


@pytest.mark.parametrize(
    ("data", "codes"), [("ends", {-128, 127}), ("extreme_up", set(range(-5, 6))), ("generic", set(range(-128, 128)))]
)
def test_codes_suit_the_data(data, codes, exported):
    model = converted(exported)
    (node,) = input_quantizes(model)
    zero = node.args[2]
    found = set(codes_for(node, (100, 50), 0, data, 0).unique().tolist())
    if data == "extreme_up":
        assert found == {zero + step for step in range(-2, 3)}
    else:
        assert found == codes


def test_a_tapped_graph_returns_every_kernels_result(exported):
    model = converted(exported)
    codes = [codes_for(node, (4, 6), 0, "generic", 0) for node in input_quantizes(model)]
    inner, outer = tap(model)(torch.zeros(4, 6))
    assert inner.shape == (4, 5)
    assert torch.equal(outer, model(torch.zeros(4, 6)))
    assert [tuple(value.shape) for value in graph_codes(model, codes).values()] == [(4, 5), (4, 3)]


def test_an_input_that_nothing_quantizes_is_named(export):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(6, 5)

        def forward(self, x):
            return self.layer(torch.sinh(x))

    with pytest.raises(GraphError, match=r"input x feeds aten.sinh.default; expected one static quantize"):
        input_quantizes(converted(export(Scaled(), X)))


def test_a_fingerprint_is_that_of_what_is_computed(exported, export):
    model = converted(exported)
    assert fingerprint(model) == fingerprint(converted(exported))
    for node in model.graph.nodes:
        if node.op == "call_function":
            node.name = f"other_{node.name}"
    assert fingerprint(model) == fingerprint(converted(exported))
    torch.manual_seed(1)
    other = converted(export(Net(), X))
    assert fingerprint(other) != fingerprint(model)
