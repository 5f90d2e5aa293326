"""What a table claims, and what it says of all it left float."""

from dataclasses import dataclass

import pytest
import torch
from annotations import CustomConv, reason, rows, specs, states
from quantizers import ADD, CONFIG, INT8, LINEAR, RELU, UINT8, WEIGHT8, Apply, SmallTable
from torch import nn
from torch.nn import functional

from quantizer_sdk import (
    ACT,
    BIAS,
    WEIGHT,
    FixedQParamsQuantizationSpec,
    InvalidSpecError,
    Operand,
    ProductBiasSpec,
    QuantizationConfig,
    QuantizationSpec,
    Role,
    Row,
    RuleError,
    SharedQuantizationSpec,
    Step,
    TableQuantizer,
    explain,
    ops,
    prepare_pt2e,
)
from quantizer_sdk.observers import PerChannelMinMaxObserver
from quantizer_sdk.table import product_of_scales

aten = torch.ops.aten
IMAGE = torch.randn(1, 3, 8, 8)
ROW = torch.randn(2, 4)


@pytest.fixture(scope="module")
def image_net(export):
    return export(nn.Sequential(CustomConv(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3)), IMAGE)


def table():
    return SmallTable().set_global(CONFIG)


def test_ops_are_matched_by_overload_so_subclasses_of_modules_count(image_net):
    assert rows(image_net, table()) == {
        "conv2d": "conv_relu",
        "relu": "conv_relu",
        "max_pool2d": "max_pool",
        "conv2d_1": "conv",
    }


def test_a_functional_call_on_a_parameter_counts(export):
    module = Apply(lambda self, x: functional.linear(x, self.weight), weight=nn.Parameter(torch.randn(3, 4)))
    assert rows(export(module, ROW), table()) == {"linear": "linear"}


def test_each_call_of_a_module_used_twice_is_claimed(export):
    model = export(Apply(lambda self, x: self.fc(torch.sin(self.fc(x))), fc=nn.Linear(4, 4)), ROW)
    assert rows(model, table()) == {"linear": "linear", "sin": None, "linear_1": "linear"}
    one_call = table().set_module_name("fc", None)
    assert set(rows(model, one_call).values()) == {None}


def test_operands_get_the_specs_of_their_roles(export):
    config = QuantizationConfig(INT8, UINT8, WEIGHT8, QuantizationSpec(torch.int32))
    model = export(nn.Linear(4, 3), ROW)
    note = specs(model, SmallTable().set_global(config))["linear"]
    given = {producer.name: spec for producer, spec in note.input_qspec_map.items()}
    assert given == {"input_1": INT8, "weight": WEIGHT8, "bias": QuantizationSpec(torch.int32)}
    assert note.output_qspec is UINT8


def test_a_role_without_a_spec_is_left_float(export):
    model = export(nn.Linear(4, 3), ROW)
    note = specs(model, SmallTable().set_global(QuantizationConfig(None, None, WEIGHT8)))["linear"]
    assert [producer.name for producer in note.input_qspec_map] == ["weight"]
    assert note.output_qspec is None


def test_inside_a_pattern_nothing_is_quantized(export):
    model = export(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), IMAGE)
    found = specs(model, table())
    assert found["conv2d"].output_qspec is None
    assert found["relu"].input_qspec_map == {}
    assert found["relu"].output_qspec is INT8


def test_an_inner_node_with_a_second_user_is_not_fused(export):
    def run(self, x):
        hidden = self.conv(x)
        return torch.relu(hidden), hidden

    model = export(Apply(run, conv=nn.Conv2d(3, 4, 3)), IMAGE)
    assert rows(model, table()) == {"conv2d": "conv", "relu": None}


def test_row_order_is_priority_and_each_node_is_claimed_once(export):
    class Backwards(TableQuantizer):
        rows = (Row("linear", (LINEAR,)), Row("linear_relu", (LINEAR, RELU)), Row("relu", (RELU,)))

    class Forwards(TableQuantizer):
        rows = (Row("linear_relu", (LINEAR, RELU)), Row("linear", (LINEAR,)), Row("relu", (RELU,)))

    model = export(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)), ROW)
    assert rows(model, Backwards().set_global(CONFIG)) == {"linear": "linear", "relu": "relu", "linear_1": "linear"}
    assert rows(model, Forwards().set_global(CONFIG)) == {
        "linear": "linear_relu",
        "relu": "linear_relu",
        "linear_1": "linear",
    }


def test_a_longer_row_does_not_take_a_node_that_is_claimed(export):
    class Overlapping(TableQuantizer):
        rows = (Row("relu", (RELU,)), Row("linear_relu", (LINEAR, RELU)), Row("linear", (LINEAR,)))

    model = export(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), ROW)
    assert rows(model, Overlapping().set_global(CONFIG)) == {"linear": "linear", "relu": "relu"}


def test_a_chain_may_enter_its_next_op_by_any_operand(export):
    class AddAfter(TableQuantizer):
        rows = (Row("linear_add", (LINEAR, ADD)),)

    model = export(Apply(lambda self, x: x + self.fc(x), fc=nn.Linear(4, 4)), ROW)
    assert rows(model, AddAfter().set_global(CONFIG)) == {"linear": "linear_add", "add": "linear_add"}
    note = specs(model, AddAfter().set_global(CONFIG))["add"]
    assert [producer.name for producer in note.input_qspec_map] == ["x"]


def test_a_check_that_refuses_gives_its_words(export):
    model = export(nn.Sequential(nn.Conv2d(3, 4, 2), nn.ReLU()), IMAGE)
    assert states(model, table()) == {"conv2d": "float", "relu": "float"}
    # Both rows asked, and each answer stands there.
    words = "kernel size 2; the NPU takes odd ones"
    assert reason(model, table(), "conv2d") == f"conv_relu: {words}; conv: {words}"


def test_an_op_without_a_row_says_so(export):
    model = export(Apply(lambda self, x: torch.sin(x)), ROW)
    assert reason(model, table(), "sin") == "no row for aten.sin.default"


def test_a_remark_of_a_row_stands_in_the_report(export):
    class Remarking(TableQuantizer):
        rows = (Row("linear", (LINEAR,), remark="in two passes"),)

    explanation = explain(export(nn.Linear(4, 3), ROW), Remarking().set_global(CONFIG))
    assert (explanation.ops[0].state, explanation.ops[0].reason) == ("quantized", "in two passes")


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (lambda self, x: x + 1, "add: operand 'other' is the number 1, and kernels take tensors"),
        (lambda self, x: x + torch.tensor([1, 2, 3, 4]), "is of torch.int64; only float tensors are quantized"),
        (lambda self, x: functional.linear(x, x.sin()), "operand 'weight' is computed at run time by sin"),
    ],
    ids=["a number", "integers", "a weight of run time"],
)
def test_an_operand_that_cannot_be_quantized_leaves_the_op_float(export, run, words):
    model = export(Apply(run), ROW)
    last = [op for op in explain(model, table()).ops if op.op in {"aten.add.Tensor", "aten.linear.default"}][-1]
    assert last.state == "float"
    assert words in last.reason


def test_a_weight_behind_a_transpose_is_a_constant(export):
    module = Apply(lambda self, x: functional.linear(x, self.weight.t()), weight=nn.Parameter(torch.randn(4, 3)))
    assert rows(export(module, ROW), table())["linear"] == "linear"


def test_a_weight_that_the_model_writes_is_none(export):
    def run(self, x):
        y = functional.linear(x, self.weight)
        self.weight.mul_(0.5)
        return y

    model = export(Apply(run, weight=torch.randn(3, 4)), ROW)
    assert rows(model, table())["linear"] is None
    assert "computed at run time" in reason(model, table(), "linear")


def test_ops_take_overloads_not_packets():
    with pytest.raises(RuleError, match=r"aten.conv2d is no op overload; name one, such as"):
        ops(aten.conv2d)


def test_rows_that_cannot_be():
    with pytest.raises(RuleError, match="row 'empty' has no steps"):
        Row("empty", ())
    with pytest.raises(RuleError, match="shares qparams over 2 steps"):
        Row("two", (RELU, RELU), share=True)


def test_an_operand_may_have_its_channels_elsewhere_or_one_scale_only(export):
    def ungrouped(match):
        groups = match.argument("groups")
        return None if groups == 1 else f"groups={groups}"

    class Transposed(TableQuantizer):
        rows = (
            Row("ungrouped", (Step(ops(aten.conv_transpose2d.input), (ACT, WEIGHT.on_axis(1))),), checks=(ungrouped,)),
            Row("grouped", (Step(ops(aten.conv_transpose2d.input), (ACT, WEIGHT.per_tensor())),)),
        )

    for groups, row, scheme, axis in [
        (1, "ungrouped", torch.per_channel_symmetric, 1),
        (2, "grouped", torch.per_tensor_symmetric, None),
    ]:
        model = export(nn.ConvTranspose2d(4, 4, 3, groups=groups), torch.randn(1, 4, 5, 5))
        quantizer = Transposed().set_global(CONFIG)
        assert rows(model, quantizer) == {"conv_transpose2d": row}
        note = specs(model, quantizer)["conv_transpose2d"]
        (spec,) = [spec for producer, spec in note.input_qspec_map.items() if producer.name == "weight"]
        assert (spec.qscheme, spec.ch_axis) == (scheme, axis)


def test_a_product_bias_is_stored_in_the_accumulators_integers(export, quantize):
    config = QuantizationConfig(INT8, INT8, WEIGHT8, ProductBiasSpec())
    module = nn.Linear(4, 3)
    converted = quantize(export(module, ROW), SmallTable().set_global(config), ROW)
    state = converted.state_dict()
    (quantizes, *_) = converted.graph.find_nodes(
        op="call_function", target=torch.ops.quantized_decomposed.quantize_per_tensor.default
    )
    assert torch.equal(state["bias_scale"], state["weight_scale"] * quantizes.args[1])
    assert state["bias"].dtype is torch.int32
    assert BIAS.spec(config) is config.bias


# Rows that share


def test_a_product_of_two_kinds_of_channels_is_refused_by_their_numbers():
    several, others = PerChannelMinMaxObserver(ch_axis=0), PerChannelMinMaxObserver(ch_axis=1)
    weight = torch.randn(3, 5)
    several(weight)
    others(weight)
    with pytest.raises(InvalidSpecError, match="3 and with 5 scales"):
        product_of_scales([several, others])


def test_a_moving_op_takes_the_qparams_of_the_quantized_op_before_it(export, quantize):
    model = export(nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2)), IMAGE)
    assert states(model, table()) == {"conv2d": "quantized", "max_pool2d": "shared"}
    converted = quantize(model, table(), IMAGE)
    (pool,) = converted.graph.find_nodes(op="call_function", target=aten.max_pool2d.default)
    (after,) = pool.users
    assert after.args[1:] == pool.args[0].args[1:]


def test_a_moving_op_takes_its_own_observer_before_the_first_quantized_op(export):
    model = export(nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(3, 4, 3)), IMAGE)
    note = specs(model, table())["max_pool2d"]
    assert list(note.input_qspec_map.values()) == [INT8]
    assert isinstance(note.output_qspec, SharedQuantizationSpec)


def test_moving_ops_reach_a_quantized_one_through_each_other(export):
    layers = nn.Sequential(nn.MaxPool2d(2), nn.MaxPool2d(2), nn.Conv2d(3, 4, 1), nn.MaxPool2d(1), nn.MaxPool2d(1))
    assert list(states(export(layers, IMAGE), table()).values()) == [
        "shared",
        "shared",
        "quantized",
        "shared",
        "shared",
    ]


def test_a_moving_op_among_float_ones_is_left_float(export):
    model = export(Apply(lambda self, x: torch.sin(functional.max_pool2d(x.sin(), 2))), IMAGE)
    assert states(model, table())["max_pool2d"] == "float"
    assert "neither its operands nor its users are quantized" in reason(model, table(), "max_pool2d")


def test_a_moving_op_whose_config_has_no_activation_spec_is_left_float(export):
    model = export(nn.Sequential(nn.MaxPool2d(2), nn.Linear(4, 2)), IMAGE)
    weight_only = QuantizationConfig(None, None, WEIGHT8)
    quantizer = SmallTable().set_global(weight_only).set_operator_type(aten.linear.default, CONFIG)
    assert states(model, quantizer)["max_pool2d"] == "float"
    assert "its config has no spec for input activations" in reason(model, quantizer, "max_pool2d")
    prepare_pt2e(model, quantizer)


def test_a_weight_only_config_moves_nothing(export):
    model = export(nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2)), IMAGE)
    quantizer = SmallTable().set_global(QuantizationConfig(None, None, WEIGHT8))
    assert states(model, quantizer) == {"conv2d": "quantized", "max_pool2d": "float"}


def test_a_weight_is_not_moved_as_an_activation(export, quantize):
    module = Apply(
        lambda self, x: functional.linear(x, self.weight.view(3, 4)), weight=nn.Parameter(torch.logspace(-3, 2, 12))
    )
    model = export(module, ROW)
    assert states(model, table()) == {"view": "float", "linear": "quantized"}
    assert "it moves a constant" in reason(model, table(), "view")
    converted = quantize(model, table(), ROW)
    state = converted.state_dict()
    (scale,) = [value for name, value in state.items() if name.endswith("_scale")]
    error = (state["weight"] * scale[:, None] - module.weight.detach().view(3, 4)).abs().amax(1)
    assert bool((error <= scale / 2 * 1.001).all())


def test_cat_shares_one_group_over_all_operands_and_its_result(export):
    def run(self, x):
        return torch.cat([self.one(x), self.two(x), x], 1)

    model = export(Apply(run, one=nn.Linear(4, 4), two=nn.Linear(4, 4)), ROW)
    prepared = prepare_pt2e(model, table())
    (cat,) = prepared.graph.find_nodes(op="call_function", target=aten.cat.default)
    (after,) = cat.users
    assert len({operand.target for operand in (*cat.args[0], after)}) == 1


def test_cat_of_one_tensor_with_itself(export, quantize):
    model = export(Apply(lambda self, x: torch.cat([self.fc(x)] * 2), fc=nn.Linear(4, 4)), ROW)
    assert states(model, table())["cat"] == "shared"
    assert quantize(model, table(), ROW)(ROW).shape == (4, 4)


@dataclass(frozen=True)
class FixedOutput(Operand):
    def spec(self, config):
        return FixedQParamsQuantizationSpec(torch.int8, 2.0**-8, -128)


class Fixed(SmallTable):
    """Sigmoid has its result on fixed qparams, as kernels that look it up have."""

    rows = (
        *SmallTable.rows,
        Row("sigmoid", (Step(ops(aten.sigmoid.default)),), output=FixedOutput(Role.OUT)),
    )


def test_readers_of_fixed_qparams_take_them_as_they_are(export, quantize):
    def run(self, x):
        y = torch.sigmoid(x)
        return self.fc(y) + y

    converted = quantize(export(Apply(run, fc=nn.Linear(4, 4)), ROW), Fixed().set_global(CONFIG), ROW)
    scales = {str(node.args[0]): node.args[1] for node in converted.graph.nodes if node.name.startswith("quantize")}
    assert scales["sigmoid"] == 2.0**-8
    assert not any(name.startswith("dequantize") for name in scales)
