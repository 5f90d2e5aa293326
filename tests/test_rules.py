"""Which rule of the user rules an op, and what is said of rules that rule none."""

import warnings

import pytest
import torch
from annotations import CustomConv, Nested, input_dtypes, reason, rows, specs, states
from quantizers import CONFIG, INT8, UINT8, WEIGHT8, Apply, SmallTable
from torch import nn

from quantizer_sdk import QuantizationConfig, RuleError, UnusedRuleWarning, explain, prepare_pt2e

aten = torch.ops.aten
OTHER = QuantizationConfig(UINT8, UINT8, WEIGHT8)
IMAGE = torch.randn(1, 3, 8, 8)
ROW = torch.randn(2, 4)


@pytest.fixture(scope="module")
def nested(export):
    return export(Nested(), ROW)


@pytest.fixture(scope="module")
def image_net(export):
    return export(nn.Sequential(CustomConv(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3)), IMAGE)


def table():
    return SmallTable().set_global(CONFIG)


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
