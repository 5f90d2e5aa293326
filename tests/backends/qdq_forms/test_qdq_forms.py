"""Every normal form computes the same bits as the graph before it, and has the form that it is named for."""

import pytest
import torch
from qdq_graphs import Q, codes, dq, dq_channels, exported, q, s8_weight

from quantizer_sdk.backends.qdq_forms import (
    dequantize_late,
    give_each_use_its_dequantize,
    quantize_early,
    to_channel_weights,
    to_full_ranges,
    to_number_padding,
    to_unsigned_activations,
)

F = torch.nn.functional
X = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(7)) * 3
S8 = {"low": -128, "high": 127, "dtype": torch.int8}


def _targets(model):
    return [node.target for node in model.graph.nodes if node.op == "call_function"]


def _assert_same(before, model, *inputs):
    model.graph.lint()
    for ours, theirs in zip(_flat(model(*inputs)), _flat(before), strict=True):
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs)


def _flat(result):
    return result if isinstance(result, (tuple, list)) else (result,)


def _int8_chain(m, x):
    a = dq(q(x, 0.05, -3, **S8), 0.05, -3, **S8)
    y = F.conv2d(a, dq_channels(m.w, m.s, m.z), m.b)
    return dq(q(y.relu(), 0.1, -128, **S8), 0.1, -128, **S8)


def _int8_codes_in_and_out(m, x):
    y = F.conv2d(dq(x, 0.05, -3, **S8), dq_channels(m.w, m.s, m.z), m.b)
    result = q(y, 0.1, 5, **S8)
    return result, dq(result, 0.1, 5, **S8)


def _dynamic(m, x):
    scale, zero_point = Q.choose_qparams.tensor(x, -128, 127, 1e-7, torch.int8)
    a = Q.quantize_per_tensor.tensor(x, scale, zero_point, -128, 127, torch.int8)
    a = Q.dequantize_per_tensor.tensor(a, scale, zero_point, -128, 127, torch.int8)
    return F.linear(a, dq_channels(m.w, m.s, m.z))


CONV = {
    "w": s8_weight(5, 4, 3, 3),
    "s": torch.rand(5, generator=torch.Generator().manual_seed(3)) / 50,
    "z": torch.zeros(5, dtype=torch.int64),
    "b": torch.linspace(-1, 1, 5),
}
LINEAR = {**CONV, "w": s8_weight(5, 6)}


@pytest.mark.parametrize(
    ("run", "inputs", "constants"),
    [
        (_int8_chain, (X,), CONV),
        (_int8_codes_in_and_out, (codes(2, 4, 6, 6, low=-128, high=128, dtype=torch.int8),), CONV),
        (_dynamic, (X,), LINEAR),
    ],
    ids=["chain", "codes in and out", "dynamic"],
)
def test_int8_activations_become_uint8(run, inputs, constants):
    model = exported(run, inputs, **constants)
    before = model(*inputs)
    to_unsigned_activations(model)
    _assert_same(before, model, *inputs)
    for node in model.graph.nodes:
        if node.target in {Q.quantize_per_tensor.default, Q.dequantize_per_tensor.default}:
            assert node.args[5] is torch.uint8
        if node.target in {Q.quantize_per_tensor.tensor, Q.dequantize_per_tensor.tensor}:
            assert node.args[5] is torch.uint8


def test_int8_weights_stay_int8():
    def run(m, x):
        return F.linear(x, dq(m.w, 0.02, 0, **S8))

    model = exported(run, (X,), w=s8_weight(5, 6))
    to_unsigned_activations(model)
    (node,) = model.graph.find_nodes(op="call_function", target=Q.dequantize_per_tensor.default)
    assert node.args[5] is torch.int8


@pytest.mark.parametrize(
    ("low", "high", "clamps"), [(0, 127, ["clamp_max"]), (1, 255, ["clamp_min"]), (5, 99, ["clamp_max", "clamp_min"])]
)
def test_narrow_ranges_become_clamps(low, high, clamps):
    def run(m, x):
        return dq(q(x, 0.01, 60, low, high), 0.01, 60, low, high)

    model = exported(run, (X,))
    before = model(X)
    assert q(X, 0.01, 60).max() == 255  # else the clamps would have nothing to do
    assert q(X, 0.01, 60).min() == 0
    to_full_ranges(model)
    _assert_same(before, model, X)
    (node,) = model.graph.find_nodes(op="call_function", target=Q.quantize_per_tensor.default)
    assert node.args[3:5] == (0, 255)
    assert [str(target).split(".")[1] for target in _targets(model)[1:-1]] == clamps


def test_full_ranges_stay():
    model = exported(lambda m, x: dq(q(x, 0.01, 60), 0.01, 60), (X,))
    targets = _targets(model)
    to_full_ranges(model)
    assert _targets(model) == targets


U8 = {"low": 0, "high": 255, "dtype": torch.uint8}


@pytest.mark.parametrize(
    ("weight", "dequantize"),
    [
        (s8_weight(5, 4, 3, 3), lambda m: dq(m.w, 0.02, 0, **S8)),
        (codes(5, 4, 3, 3, low=1), lambda m: dq(m.w, 0.02, 128, **U8)),
        (codes(5, 4, 3, 3, low=100, high=200), lambda m: dq(m.w, 0.02, 117, **U8)),
        (codes(5, 4, 3, 3, low=1), lambda m: dq_channels(m.w, m.s, m.middle, dtype=torch.uint8)),
        (codes(5, 4, 3, 3, low=-50, high=50, dtype=torch.int8), lambda m: dq_channels(m.w, m.s, m.odd)),
    ],
    ids=["per tensor", "uint8 per tensor", "uint8 affine", "uint8 per channel", "int8 affine per channel"],
)
def test_weights_become_int8_per_channel(weight, dequantize):
    def run(m, x):
        return F.conv2d(x, dequantize(m), m.b)

    affine = {"middle": torch.full((5,), 128), "odd": torch.arange(5)}
    model = exported(run, (X,), **{**CONV, **affine, "w": weight})
    (conv,) = model.graph.find_nodes(op="call_function", target=torch.ops.aten.conv2d.default)
    before = model(X)
    to_channel_weights(model)
    _assert_same(before, model, X)
    rewritten = conv.args[1]
    assert rewritten.target is Q.dequantize_per_channel.default
    assert rewritten.args[3:] == (0, -128, 127, torch.int8)
    values = dict(model.named_buffers())
    assert values[rewritten.args[0].target].dtype == torch.int8
    assert not values[rewritten.args[2].target].any()


def test_weights_that_do_not_fit_stay():
    def run(m, x):
        return F.conv2d(x, dq(m.w, 0.02, 10, **U8), m.b)

    model = exported(run, (X,), **{**CONV, "w": codes(5, 4, 3, 3)})
    targets = _targets(model)
    to_channel_weights(model)
    assert _targets(model) == targets


def test_each_use_has_its_dequantize():
    def run(m, x):
        a = dq(q(x, 0.05, 100), 0.05, 100)
        w = dq_channels(m.w, m.s, m.z)
        return F.conv2d(a, w, m.b) + F.conv2d(a, w), a

    model = exported(run, (X,), **CONV)
    before = model(X)
    give_each_use_its_dequantize(model)
    _assert_same(before, model, X)
    dequantizes = [node for node in model.graph.nodes if "dequantize" in str(node.target)]
    assert [len(node.users) for node in dequantizes] == [1] * 5


def test_views_are_of_codes():
    def run(m, x):
        a = dq(q(x, 0.05, 100), 0.05, 100)
        return F.linear(a.flatten(2).transpose(1, 2)[:, 3:], m.b), a.relu()

    model = exported(run, (X,), b=torch.randn(4))
    before = model(X)
    give_each_use_its_dequantize(model)
    dequantize_late(model)
    _assert_same(before, model, X)
    (linear,) = model.graph.find_nodes(op="call_function", target=torch.ops.aten.linear.default)
    assert linear.args[0].target is Q.dequantize_per_tensor.default
    assert linear.args[0].args[0].meta["val"].dtype == torch.uint8


def test_codes_are_moved_and_padded():
    def run(m, x):
        y = F.pad(x.relu(), (1, 2, 0, 1)).transpose(1, 2)
        return dq(q(y, 0.05, 30, 5, 99), 0.05, 30, 5, 99)

    model = exported(run, (X,))
    before = model(X)
    quantize_early(model)
    _assert_same(before, model, X)
    names = [str(target).split(".")[1] for target in _targets(model)]
    assert names == ["relu", "quantize_per_tensor", "constant_pad_nd", "transpose", "dequantize_per_tensor"]


def test_what_others_read_is_not_moved():
    def run(m, x):
        y = F.pad(x, (1, 2, 0, 1))
        return dq(q(y, 0.05, 30), 0.05, 30), y

    model = exported(run, (X,))
    targets = _targets(model)
    quantize_early(model)
    assert _targets(model) == targets


@pytest.mark.parametrize("kernel", [(3, 3), (2, 4), (1, 2)])
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_padding_is_a_number(kernel, padding):
    def run(m, x):
        a = dq(q(x, 0.05, 100), 0.05, 100)
        return F.conv2d(a, dq_channels(m.w, m.s, m.z), m.b, padding=padding, dilation=(2, 1))

    model = exported(run, (X,), **{**CONV, "w": s8_weight(5, 4, *kernel)})
    before = model(X)
    to_number_padding(model)
    model.graph.lint()
    torch.testing.assert_close(model(X), before, rtol=1e-5, atol=1e-5)
    (conv,) = model.graph.find_nodes(op="call_function", target=torch.ops.aten.conv2d.default)
    assert conv.args[0].target is Q.dequantize_per_tensor.default
