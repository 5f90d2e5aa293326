"""What a table claims, under which of the user's rules, and what it says of all it left float."""

import warnings

import pytest
import torch
from quantizers import ADD, CONFIG, INT8, LINEAR, RELU, UINT8, WEIGHT8, Apply, ByHand, SmallTable, annotation
from torch import nn
from torch.nn import functional

from quantizer_sdk import (
    ACT,
    BIAS,
    WEIGHT,
    ComposableQuantizer,
    InvalidAnnotationError,
    ProductBiasSpec,
    QuantizationConfig,
    QuantizationSpec,
    Quantizer,
    Row,
    RuleError,
    SharedQuantizationSpec,
    Step,
    TableQuantizer,
    UnusedRuleWarning,
    calibrate,
    convert_pt2e,
    explain,
    ops,
    prepare_pt2e,
)
from quantizer_sdk.quantize_pt2e import annotate

aten = torch.ops.aten
KEY = "quantization_annotation"
OTHER = QuantizationConfig(UINT8, UINT8, WEIGHT8)
IMAGE = torch.randn(1, 3, 8, 8)
ROW = torch.randn(2, 4)


class CustomConv(nn.Conv2d):
    """A subclass, as those of EfficientNet-Lite are."""


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        self.second = nn.Linear(4, 4)

    def forward(self, x):
        return self.second(self.first(x)) + x


@pytest.fixture(scope="module")
def nested(export):
    return export(Nested(), ROW)


@pytest.fixture(scope="module")
def image_net(export):
    return export(nn.Sequential(CustomConv(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3)), IMAGE)


def table():
    return SmallTable().set_global(CONFIG)


def states(model, quantizer):
    """Return {node: its state} as explain() tells it."""
    return {op.node: op.state for op in explain(model, quantizer).ops}


def rows(model, quantizer):
    return {op.node: op.row for op in explain(model, quantizer).ops}


def reason(model, quantizer, node):
    return next(op.reason for op in explain(model, quantizer).ops if op.node == node)


def specs(model, quantizer):
    """Return {node: its annotation} of an annotated copy."""
    return {node.name: node.meta[KEY] for node in annotate(model, quantizer).graph.nodes if KEY in node.meta}


def input_dtypes(model, quantizer):
    """Return {node: the integer type of its first activation}."""
    found = {}
    for name, note in specs(model, quantizer).items():
        for producer, spec in note.input_qspec_map.items():
            if producer.op != "get_attr":
                found[name] = spec.dtype
    return found


# Rules


def test_without_any_rule_and_default_nothing_is_covered(nested):
    assert set(states(nested, SmallTable()).values()) == {"float"}
    assert "no rule covers it" in reason(nested, SmallTable(), "linear")


def test_the_default_config_rules_until_a_rule_is_set(nested):
    class WithDefault(SmallTable):
        def default_config(self):
            return CONFIG

    assert set(states(nested, WithDefault()).values()) == {"quantized"}
    only_second = states(nested, WithDefault().set_module_name("second", CONFIG))
    assert only_second == {"linear": "float", "linear_1": "float", "linear_2": "quantized", "add": "float"}


def test_the_filter_goes_with_the_default_config_too(nested):
    class WithDefault(SmallTable):
        def default_config(self):
            return CONFIG

    quantizer = WithDefault().set_filter_function(lambda node: node.name != "add")
    assert states(nested, quantizer)["add"] == "float"
    assert reason(nested, quantizer, "add") == "excluded by the filter function"
    assert states(nested, quantizer)["linear"] == "quantized"


def test_module_name_goes_before_module_type_before_op_type_before_global(nested):
    quantizer = SmallTable().set_global(CONFIG)
    assert set(input_dtypes(nested, quantizer).values()) == {torch.int8}
    quantizer.set_operator_type(aten.linear.default, OTHER)
    assert input_dtypes(nested, quantizer)["linear"] is torch.uint8
    assert input_dtypes(nested, quantizer)["add"] is torch.int8
    quantizer.set_module_type(nn.Linear, CONFIG)
    assert input_dtypes(nested, quantizer)["linear"] is torch.int8
    quantizer.set_module_name("first", OTHER)
    dtypes = input_dtypes(nested, quantizer)
    assert (dtypes["linear"], dtypes["linear_1"], dtypes["linear_2"]) == (torch.uint8, torch.uint8, torch.int8)


@pytest.mark.parametrize("order", ["deep first", "deep last"])
def test_the_deepest_module_name_wins(nested, order):
    rules = [("first.1", OTHER), ("first", CONFIG)]
    quantizer = SmallTable()
    for name, config in rules if order == "deep first" else rules[::-1]:
        quantizer.set_module_name(name, config)
    dtypes = input_dtypes(nested, quantizer)
    assert (dtypes["linear"], dtypes["linear_1"]) == (torch.int8, torch.uint8)


def test_a_module_name_is_a_path_and_no_prefix_of_a_word(export):
    model = export(Apply(lambda self, x: self.fc(self.fc1(x)), fc=nn.Linear(4, 4), fc1=nn.Linear(4, 4)), ROW)
    quantizer = SmallTable().set_module_name("fc", CONFIG)
    assert states(model, quantizer) == {"linear": "float", "linear_1": "quantized"}


def test_the_innermost_module_of_a_configured_type_wins(nested):
    quantizer = SmallTable().set_module_type(nn.Sequential, OTHER).set_module_type(nn.Linear, CONFIG)
    assert set(input_dtypes(nested, quantizer).values()) == {torch.int8}
    sequential = SmallTable().set_module_type(nn.Sequential, OTHER)
    assert states(nested, sequential) == {
        "linear": "quantized",
        "linear_1": "quantized",
        "linear_2": "float",
        "add": "float",
    }


def test_a_module_type_may_be_given_by_its_qualified_name(nested):
    quantizer = SmallTable().set_module_type("torch.nn.modules.linear.Linear", CONFIG)
    assert states(nested, quantizer)["linear"] == "quantized"
    assert states(nested, quantizer)["add"] == "float"


@pytest.mark.parametrize(
    ("forbid", "words"),
    [
        (lambda table: table.set_module_name("first", None), "excluded by the rule for module name 'first'"),
        (lambda table: table.set_module_type(nn.Linear, None), "excluded by the rule for module type torch.nn.modules"),
        (
            lambda table: table.set_operator_type(aten.linear.default, None),
            "excluded by the rule for op type aten.linear",
        ),
    ],
    ids=["module name", "module type", "op type"],
)
def test_none_leaves_float_and_explain_says_by_which_rule(nested, forbid, words):
    quantizer = forbid(table())
    assert states(nested, quantizer)["linear"] == "float"
    assert words in reason(nested, quantizer, "linear")
    assert states(nested, quantizer)["add"] == "quantized"


def test_global_none_leaves_all_else_float(nested):
    quantizer = SmallTable().set_global(None).set_module_name("second", CONFIG)
    assert states(nested, quantizer) == {
        "linear": "float",
        "linear_1": "float",
        "linear_2": "quantized",
        "add": "float",
    }
    assert reason(nested, quantizer, "add") == "excluded by the rule for all ops (global)"


def test_a_packet_of_overloads_covers_each_and_is_used_if_one_is(nested):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UnusedRuleWarning)
        assert states(nested, SmallTable().set_operator_type(aten.linear, CONFIG))["linear"] == "quantized"
        assert states(nested, SmallTable().set_operator_type(aten.add, CONFIG))["add"] == "quantized"


def test_a_packet_none_of_whose_overloads_is_there_is_one_unused_rule(nested):
    with pytest.warns(UnusedRuleWarning, match=r"op type aten\.conv2d$"):
        explain(nested, table().set_operator_type(aten.conv2d, CONFIG))


def test_a_fused_pattern_takes_the_config_of_its_first_op(export):
    model = export(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), IMAGE)
    quantizer = SmallTable().set_module_name("0", CONFIG).set_module_name("1", OTHER)
    found = specs(model, quantizer)
    assert found["relu"].output_qspec is CONFIG.output_activation
    assert rows(model, quantizer) == {"conv2d": "conv_relu", "relu": "conv_relu"}


def test_a_pattern_does_not_reach_into_an_op_that_a_rule_excludes(export):
    model = export(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), IMAGE)
    quantizer = table().set_module_name("1", None)
    assert rows(model, quantizer) == {"conv2d": "conv", "relu": None}
    assert reason(model, quantizer, "relu") == "excluded by the rule for module name '1'"


@pytest.mark.parametrize(
    ("set_rule", "words"),
    [
        (lambda table: table.set_module_name("thrid", CONFIG), "module name 'thrid'"),
        (lambda table: table.set_module_type(nn.Conv2d, CONFIG), "module type torch.nn.modules.conv.Conv2d"),
        (lambda table: table.set_operator_type(aten.conv2d.default, CONFIG), "op type aten.conv2d.default"),
    ],
    ids=["module name", "module type", "op type"],
)
def test_a_rule_that_matches_nothing_warns_and_stands_in_the_notes(nested, set_rule, words):
    with pytest.warns(UnusedRuleWarning, match="SmallTable: these rules match no op"):
        explanation = explain(nested, set_rule(table()))
    (note,) = explanation.notes
    assert words in note
    with pytest.warns(UnusedRuleWarning):
        prepared = prepare_pt2e(nested, set_rule(table()))
    assert explain(prepared).notes == (note,)


def test_rules_that_match_do_not_warn_even_where_a_stronger_rule_goes_before(nested):
    quantizer = table().set_module_name("first", None).set_module_name("first.0", CONFIG)
    quantizer.set_module_type(nn.Linear, CONFIG).set_operator_type(aten.linear.default, CONFIG)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UnusedRuleWarning)
        assert explain(nested, quantizer).notes == ()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda table: table.set_module_name("", CONFIG), "path of a submodule"),
        (lambda table: table.set_module_name(3, CONFIG), "path of a submodule"),
        (lambda table: table.set_module_type(3, CONFIG), "takes a class of modules"),
        (lambda table: table.set_operator_type(torch.relu, CONFIG), "is no op; give an overload"),
        (lambda table: table.set_global(INT8), "takes a QuantizationConfig"),
        (lambda table: table.set_module_name("first", "int8"), "takes a QuantizationConfig"),
    ],
)
def test_rules_that_cannot_be(call, words):
    with pytest.raises(RuleError, match=words):
        call(SmallTable())


def test_one_quantizer_serves_several_models(nested, image_net):
    quantizer = table()
    first = states(nested, quantizer)
    states(image_net, quantizer)
    assert states(nested, quantizer) == first


def test_rules_of_one_quantizer_are_not_those_of_another():
    SmallTable().set_module_name("first", None)
    assert SmallTable()._rules.empty


# Rows


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


# Several quantizers


def only(name, config=CONFIG):
    return SmallTable().set_module_name(name, config)


def test_quantizers_annotate_what_those_before_them_left(nested):
    quantizer = ComposableQuantizer([only("first", CONFIG), SmallTable().set_global(OTHER)])
    dtypes = input_dtypes(nested, quantizer)
    assert dtypes["linear"] is torch.int8
    assert (dtypes["linear_2"], dtypes["add"]) == (torch.uint8, torch.uint8)
    reverse = ComposableQuantizer([SmallTable().set_global(OTHER), only("first", CONFIG)])
    assert set(input_dtypes(nested, reverse).values()) == {torch.uint8}


def test_a_composed_quantizer_converts(nested, quantize):
    converted = quantize(nested, ComposableQuantizer([only("first"), SmallTable().set_global(OTHER)]), ROW)
    torch.testing.assert_close(converted(ROW), nested(ROW), atol=0.1, rtol=0)


def test_a_quantizer_that_replaces_an_annotation_is_named(nested):
    def replace(nodes):
        nodes["linear"].meta[KEY] = annotation({}, INT8)

    with pytest.raises(InvalidAnnotationError, match=r"ByHand replaced the annotation .* on linear .*skip nodes"):
        prepare_pt2e(nested, ComposableQuantizer([table(), ByHand(replace)]))


def test_a_quantizer_that_removes_an_annotation_is_named(nested):
    with pytest.raises(InvalidAnnotationError, match=r"ByHand replaced the annotation"):
        prepare_pt2e(nested, ComposableQuantizer([table(), ByHand(lambda nodes: nodes["linear"].meta.pop(KEY))]))


def test_every_hook_of_every_quantizer_is_called_in_order(nested):
    calls = []

    class Recording(Quantizer):
        def __init__(self, name):
            self.name = name

        def transform_for_annotation(self, model):
            calls.append(("transform", self.name))
            return model

        def annotate(self, model):
            calls.append(("annotate", self.name))
            if self.name == "a":
                table().annotate(model)
            return model

        def validate(self, model):
            calls.append(("validate", self.name))

        def prepare_obs_or_fq_callback(self, model, edge_or_node_to_obs_or_fq):
            calls.append(("callback", self.name))

    prepared = prepare_pt2e(nested, ComposableQuantizer([Recording("a"), Recording("b")]))
    stages = ("transform", "annotate", "validate", "callback")
    assert calls == [(stage, name) for stage in stages for name in "ab"]
    calibrate(prepared, [ROW])
    assert convert_pt2e(prepared)(ROW).shape == ROW.shape
