"""A converted model holds q/dq ops in PT2E's layout, one dequantize a user, with the provenance of their tensor."""

import pytest
import torch
from quantizers import CONFIG, INT8, UINT8, WEIGHT8, Apply, SmallTable, by_hand, targets
from torch import nn

from quantizer_sdk import (
    FixedQParamsQuantizationSpec,
    NonFiniteError,
    QuantizationConfig,
    QuantizationSpec,
    SharedQuantizationSpec,
    UncalibratedError,
    calibrate,
    convert_pt2e,
    prepare_pt2e,
)
from quantizer_sdk.observers.create import is_observer
from quantizer_sdk.provenance import module_path, source_line
from quantizer_sdk.qdq import is_dequantize, is_quantize

OPS = torch.ops.quantized_decomposed
X = torch.randn(4, 3)


def find(model, target):
    return model.graph.find_nodes(op="call_function", target=target)


def relu(self, x):
    return torch.relu(x)


def test_per_tensor_layout(export, quantize):
    spec = QuantizationSpec(torch.uint8, quant_min=2, quant_max=250, qscheme=torch.per_tensor_affine)
    converted = quantize(export(Apply(relu), X), by_hand({"relu": ({"x": spec}, None)}), X)
    (q,), (dq,) = find(converted, OPS.quantize_per_tensor.default), find(converted, OPS.dequantize_per_tensor.default)
    x, scale, zero_point, *rest = q.args
    low, high = min(float(X.min()), 0), max(float(X.max()), 0)
    assert x.name == "x"
    assert type(scale) is float
    assert type(zero_point) is int
    assert scale == pytest.approx((high - low) / 248, rel=1e-6)
    assert zero_point == 2 - round(low / scale)
    assert rest == [2, 250, torch.uint8]
    assert dq.args == (q, *q.args[1:])
    assert dict(dq.kwargs) == {}


@pytest.mark.parametrize("axis", [0, 1])
def test_per_channel_layout(export, quantize, axis):
    spec = QuantizationSpec(torch.int8, None, -127, 127, torch.per_channel_symmetric, axis)
    converted = quantize(export(Apply(relu), X), by_hand({"relu": ({"x": spec}, None)}), X)
    (q,), (dq,) = find(converted, OPS.quantize_per_channel.default), find(converted, OPS.dequantize_per_channel.default)
    x, scales, zero_points, *rest = q.args
    assert x.name == "x"
    assert rest == [axis, -127, 127, torch.int8]
    assert dq.args == (q, *q.args[1:])
    state = converted.state_dict()
    assert torch.equal(state[scales.target], X.abs().amax(1 - axis) / 127)
    assert state[scales.target].dtype is torch.float32
    assert torch.equal(state[zero_points.target], torch.zeros(X.shape[axis], dtype=torch.int64))


def test_a_fixed_spec_gives_its_own_qparams(export, quantize):
    spec = FixedQParamsQuantizationSpec(torch.int8, 1 / 64, -128)
    converted = quantize(export(Apply(relu), X), by_hand({"relu": ({}, spec)}), X)
    (q,) = find(converted, OPS.quantize_per_tensor.default)
    assert q.args[1:] == (1 / 64, -128, -128, 127, torch.int8)


def test_each_user_gets_a_dequantize_of_its_own(export, quantize):
    def run(self, x):
        y = torch.relu(x)
        return torch.sigmoid(y) + torch.tanh(y), y

    converted = quantize(export(Apply(run), X), by_hand({"relu": ({}, INT8)}), X)
    (q,) = [node for node in converted.graph.nodes if is_quantize(node)]
    users = [user for dq in q.users for user in dq.users]
    assert all(is_dequantize(dq) and len(dq.users) == 1 for dq in q.users)
    assert {user.name for user in users} == {"sigmoid", "tanh", "output"}


def test_an_operand_read_twice_by_one_op_has_one_dequantize(export, quantize):
    converted = quantize(export(Apply(lambda self, x: x + x), X), SmallTable().set_global(CONFIG), X)
    (add,) = find(converted, torch.ops.aten.add.Tensor)
    assert add.args[0] is add.args[1]


def test_q_and_dq_carry_the_provenance_and_value_of_their_tensor(export, quantize):
    x = torch.randn(2, 3, 5, 5)
    model = export(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), x)
    converted = quantize(model, SmallTable().set_global(CONFIG), x)
    (relu,) = find(converted, torch.ops.aten.relu.default)
    (q,) = relu.users
    (dq,) = q.users
    for node in (q, dq):
        assert module_path(node) == module_path(relu) == "1"
        assert source_line(node) == source_line(relu)
        assert node.meta["stack_trace"] == relu.meta["stack_trace"]
        assert node.meta["nn_module_stack"] == relu.meta["nn_module_stack"]
    assert q.meta["val"].dtype is torch.int8
    assert dq.meta["val"].dtype is torch.float32
    assert q.meta["val"].shape == dq.meta["val"].shape == relu.meta["val"].shape


def test_every_call_of_a_converted_graph_has_an_example_value(export, quantize):
    x = torch.randn(2, 3, 5, 5)
    model = export(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()), x)
    converted = quantize(model, SmallTable().set_global(CONFIG), x)
    for node in converted.graph.nodes:
        assert node.op == "output" or isinstance(node.meta["val"], torch.Tensor), node


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_of_half_precision_stays_one(export, quantize, dtype):
    x = torch.randn(4, 3).to(dtype)
    model = export(nn.Linear(3, 5).to(dtype), x)
    converted = quantize(model, SmallTable().set_global(CONFIG), x)
    dequantizes = [node for node in converted.graph.nodes if is_dequantize(node)]
    assert len(dequantizes) == 3
    assert all(dict(node.kwargs) == {"out_dtype": dtype} for node in dequantizes)
    assert converted(x).dtype is dtype
    # A step for each affine tensor, whose ends may clip, half a step for the weight, and the half type's own roundings:
    # of both operands and the result, on either side.
    step_in, step_out = (node.args[1] for node in converted.graph.nodes if is_quantize(node))
    weight, bias = model.weight.detach().float(), model.bias.detach().float()
    step_weight, size = converted.state_dict()["weight_scale"], x.float().abs()
    largest = size @ weight.abs().T + bias.abs()
    bound = step_in * weight.abs().sum(1) + (size.sum(1, keepdim=True) + 3 * step_in) * step_weight / 2 + step_out
    assert ((converted(x).float() - model(x).float()).abs() <= bound + 3 * torch.finfo(dtype).eps * largest).all()
    assert converted.state_dict()["weight_scale"].dtype is torch.float32


def test_the_converted_model_computes_fake_quantized_values(export, quantize):
    x = torch.randn(6, 3)
    module = nn.Linear(3, 5)
    converted = quantize(export(module, x), SmallTable().set_global(CONFIG), x)

    def per_tensor(value):
        low, high = float(value.min().clamp(max=0)), float(value.max().clamp(min=0))
        scale = torch.tensor(high - low, dtype=torch.float32) / 255
        zero_point = -128 - int(torch.round(torch.tensor(low) / scale))
        return torch.fake_quantize_per_tensor_affine(value, float(scale), zero_point, -128, 127)

    with torch.no_grad():
        scale = module.weight.abs().amax(1) / 127
        weight = torch.fake_quantize_per_channel_affine(module.weight, scale, torch.zeros(5), 0, -127, 127)
        float_output = module(x)
        output = nn.functional.linear(per_tensor(x), weight, module.bias)
        low, high = float(float_output.min()), float(float_output.max())
        step = (high - low) / 255
        # One rounding of the result is left; its codes may differ by one where float32 sums fall on a tie.
        torch.testing.assert_close(converted(x), output.clamp(low, high), atol=step * 0.51, rtol=0)


def test_a_group_shares_one_pair_of_qparams(export, quantize):
    spec = QuantizationSpec(torch.int8, None, -127, 127, torch.per_channel_symmetric, 1)

    def shared(nodes):
        return SharedQuantizationSpec((nodes["x"], nodes["relu"]))

    converted = quantize(export(Apply(relu), X), by_hand({"relu": ({"x": spec}, shared)}), X)
    one, other = find(converted, OPS.quantize_per_channel.default)
    assert one.args[1:] == other.args[1:]
    assert len(converted.state_dict()) == 2


def test_no_observer_is_left(export, quantize):
    converted = quantize(export(nn.Linear(3, 4), X), SmallTable().set_global(CONFIG), X)
    assert not any(map(is_observer, converted.modules()))
    assert not [name for name in converted.state_dict() if "activation_post_process" in name]
    assert not [node for node in converted.graph.nodes if node.op == "call_module"]


def test_the_prepared_model_stays_as_it_was(export):
    prepared = prepare_pt2e(export(nn.Linear(3, 4), X), SmallTable().set_global(CONFIG))
    calibrate(prepared, [X])
    code, state = prepared.code, {name: value.clone() for name, value in prepared.state_dict().items()}
    before = prepared(X)
    convert_pt2e(prepared)
    assert prepared.code == code
    assert prepared.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in prepared.state_dict().items())
    assert torch.equal(prepared(X), before)


def test_converting_twice_gives_the_same_model(export):
    prepared = prepare_pt2e(export(nn.Linear(3, 4), X), SmallTable().set_global(CONFIG))
    calibrate(prepared, [X])
    first, second = convert_pt2e(prepared), convert_pt2e(prepared)
    assert first.code == second.code
    assert torch.equal(first(X), second(X))


def test_a_weight_only_model_needs_no_calibration(export):
    weight_only = SmallTable().set_global(QuantizationConfig(None, None, WEIGHT8))
    model = export(nn.Linear(3, 4), X)
    converted = convert_pt2e(prepare_pt2e(model, weight_only))
    assert targets(converted) == ["dequantize_per_channel", "linear"]
    assert float((converted(X) - model(X)).detach().abs().max()) < 0.01


def test_a_weight_behind_a_transpose_needs_no_calibration_either(export):
    weight_only = SmallTable().set_global(QuantizationConfig(None, None, WEIGHT8))
    run = Apply(lambda self, x: nn.functional.linear(x, self.weight.t()), weight=nn.Parameter(torch.randn(3, 4)))
    converted = convert_pt2e(prepare_pt2e(export(run, X), weight_only))
    assert targets(converted) == ["dequantize_per_channel", "linear"]


def test_fake_quantizers_of_torchao_that_saw_no_data_are_refused(export):
    from torchao.quantization.pt2e import FakeQuantize, MovingAverageMinMaxObserver

    spec = QuantizationSpec(
        torch.int8,
        FakeQuantize.with_args(observer=MovingAverageMinMaxObserver),
        -128,
        127,
        torch.per_tensor_affine,
    )
    prepared = prepare_pt2e(export(Apply(relu), X), by_hand({"relu": ({"x": spec}, None)}))
    with pytest.raises(UncalibratedError, match="1 of 1 observers have seen no data"):
        convert_pt2e(prepared)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_another_librarys_observer_with_a_scale_that_cannot_be(export, scale):
    class Odd(nn.Module):
        dtype, quant_min, quant_max, qscheme = torch.int8, -128, 127, torch.per_tensor_affine

        def __init__(self, **fields):
            super().__init__()

        @classmethod
        def with_args(cls, **fields):
            return cls

        def forward(self, x):
            return x

        def calculate_qparams(self):
            return torch.tensor([scale]), torch.tensor([0])

    prepared = prepare_pt2e(export(Apply(relu), X), by_hand({"relu": ({"x": QuantizationSpec(torch.int8, Odd)}, None)}))
    with pytest.raises(NonFiniteError, match=r"on the output of x .*no positive number"):
        convert_pt2e(prepared)


def test_unsigned_and_signed_codes_may_meet_at_one_op(export, quantize):
    model = export(Apply(lambda self, x, y: x + y), X, X.abs())
    quantizer = by_hand({"add": ({"x": INT8, "others_0": UINT8}, None)})
    converted = quantize(model, quantizer, X, X.abs())
    assert {node.args[-1] for node in converted.graph.nodes if is_quantize(node)} == {torch.int8, torch.uint8}
    a_step_each = sum(node.args[1] for node in converted.graph.nodes if is_quantize(node))
    torch.testing.assert_close(converted(X, X.abs()), X + X.abs(), atol=a_step_each, rtol=0)
