"""Graphs read as gemms of run-time qparams, and their weights."""

import pytest
import torch
from dynamic_graphs import DynamicConv, DynamicLinear, exported

from quantizer_sdk.conformance.dynamic_gemms import computing, dynamic_gemms, observed, rows_of
from quantizer_sdk.conformance.dynamic_inputs import float_inputs
from quantizer_sdk.conformance.dynamic_weights import StoredWeight

X = torch.randn(2, 5, 64)
IMAGE = torch.randn(2, 4, 6, 6)


@pytest.mark.parametrize(
    ("module", "x", "own"),
    [
        (DynamicLinear(64, 7), X, 2),
        (DynamicLinear(64, 7, per_tensor=True), X, 0),
        (DynamicConv(4, 6), IMAGE, 1),
        (DynamicConv(4, 6, transposed=True), IMAGE, 1),
    ],
)
def test_a_gemm_is_found_with_the_axes_that_have_scales(module, x, own):
    model = exported(module, x)
    (gemm,) = dynamic_gemms(model)
    assert gemm.own_axes(x.dim()) == own
    assert gemm.code_range == (-128, 127)
    assert gemm.bias(model).flatten().tolist() == module.bias.tolist()


def test_blocks_of_another_kind_are_said_to_be_none_of_these():
    model = exported(DynamicConv(4, 6), IMAGE)
    (gemm,) = dynamic_gemms(model)
    gemm.choose.args = (gemm.choose.args[0], [1, 1, -1, 2], *gemm.choose.args[2:])
    assert gemm.own_axes(4) is None


def test_a_clamp_behind_it_belongs_to_it():
    (gemm,) = dynamic_gemms(exported(DynamicLinear(64, 7, relu=True), X))
    assert [str(target) for target in gemm.targets] == ["aten.linear.default", "aten.relu.default"]
    assert bool((gemm.clamped(torch.tensor([-1.0, 2.0])) == torch.tensor([0.0, 2.0])).all())


def test_a_float_gemm_is_none():
    model = exported(torch.nn.Linear(64, 7), X)
    assert dynamic_gemms(model) == ()
    assert [str(node.target) for node in computing(model)] == ["aten.linear.default"]


def test_what_quantizes_does_not_compute():
    model = exported(DynamicConv(4, 6), IMAGE)
    assert [str(node.target) for node in computing(model)] == ["aten.conv2d.default"]


@pytest.mark.parametrize("group", [None, 32])
def test_the_weight_is_what_its_dequantize_gives(group):
    module = DynamicLinear(64, 7, bits=4, group=group)
    model = exported(module, X)
    (gemm,) = dynamic_gemms(model)
    weight = StoredWeight.of(model, gemm.weight)
    assert torch.equal(weight.real.float(), observed(model, (X,))[gemm.weight])
    assert weight.groups == (2 if group else 1)
    parts = [weight.within(weight.steps, place) for place in range(weight.groups)]
    assert torch.equal(torch.stack(parts).sum(0), weight.steps)
    assert torch.equal(weight.scales.flatten()[weight.which()] * weight.steps, weight.real.float())


@pytest.mark.parametrize("kind", ["generic", "rows_unequal", "rows_flat", "rows_extreme", "rows_ties", "nonfinite"])
@pytest.mark.parametrize("shape", [(4, 19), (1, 1), (3, 2, 7)])
def test_inputs_have_their_shape_and_are_the_same_each_time(kind, shape):
    x = float_inputs(shape, len(shape) - 1, kind, 5)
    assert x.shape == shape
    assert x.dtype is torch.float32
    assert torch.equal(x.nan_to_num(7.0), float_inputs(shape, len(shape) - 1, kind, 5).nan_to_num(7.0))


def test_ties_are_ties_of_a_power_of_two():
    rows = rows_of(float_inputs((7, 40), 1, "rows_ties", 0), 1).double()
    scale = (rows.amax(1) - rows.amin(1)) / 255
    assert bool((torch.frexp(scale)[0] == 0.5).all())
    assert bool(((rows[:, 2:] / scale[:, None]) % 1 == 0.5).all())


def test_every_other_row_is_finite_where_some_are_not():
    finite = torch.isfinite(float_inputs((8, 5), 1, "nonfinite", 0)).all(1)
    assert finite.tolist() == [False, True] * 4
