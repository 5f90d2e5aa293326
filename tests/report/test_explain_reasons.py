"""Why an op is float, what kind of reason that is, and what would change it."""

import pytest
import torch
from quantizers import ACT, CONFIG, CONV, RELU, Apply, ByHand, SmallTable
from torch import nn

from quantizer_sdk import Refusal, Row, Step, TableQuantizer, explain, ops, prepare_pt2e
from quantizer_sdk.refusal import ADVICE, CHECK

aten = torch.ops.aten
IMAGE = torch.randn(2, 3, 8, 8)


def record(model, quantizer, op):
    return next(each for each in explain(model, quantizer).ops if each.op.startswith(f"aten.{op}"))


def branches(self, x):
    y = self.conv(x)
    return torch.relu(y) + y.sigmoid()


@pytest.fixture(scope="module")
def branching(export):
    return export(Apply(branches, conv=nn.Conv2d(3, 4, 3)), IMAGE)


def test_an_op_that_a_row_takes_behind_one_with_several_users(branching):
    relu = record(branching, SmallTable().set_global(CONFIG), "relu")
    assert relu.cause == "multi_user"
    assert relu.reason == (
        "no row for aten.relu.default alone: row 'conv_relu' takes it behind conv2d where nothing else reads that, and "
        "sigmoid does"
    )
    assert relu.advice.startswith("the producer conv2d has 2 users: let sigmoid read the result of relu, or compute")


def test_an_op_that_no_row_has(branching):
    sigmoid = record(branching, SmallTable().set_global(CONFIG), "sigmoid")
    assert (sigmoid.cause, sigmoid.reason) == ("no_row", "no row for aten.sigmoid.default")
    assert "add a row" in sigmoid.advice


def test_an_op_whose_result_is_no_float_has_nothing_to_gain(export):
    model = export(Apply(lambda self, x: self.a(x).argmax(1) + 1, a=nn.Linear(8, 8)), IMAGE)
    argmax = record(model, SmallTable().set_global(CONFIG), "argmax")
    assert (argmax.cause, argmax.advice) == ("dtype", "nothing: its result is torch.int64, not float")
    add = record(model, SmallTable().set_global(CONFIG), "add")
    assert add.cause == "dtype"
    assert "only float tensors are quantized" in add.reason


def test_doubles_are_to_be_exported_as_floats(export):
    def run(self, x):
        return self.b(self.a(x).double())

    model = export(Apply(run, a=nn.Linear(8, 8), b=nn.Linear(8, 8).double()), IMAGE)
    first, second = (op for op in explain(model, SmallTable().set_global(CONFIG)).ops if op.row or op.cause == "dtype")
    assert first.state == "quantized"
    assert second.reason.startswith("linear: operand 'input' (to) is of torch.float64; q/dq ops take torch.float32")
    assert second.advice == "export in float32: only float tensors are quantized"
    prepare_pt2e(model, SmallTable().set_global(CONFIG))(IMAGE)


def test_a_check(export):
    model = export(nn.Sequential(nn.Conv2d(3, 4, 2), nn.Conv2d(4, 4, 3)), IMAGE)
    conv = record(model, SmallTable().set_global(CONFIG), "conv2d")
    assert (conv.cause, conv.reason) == ("check", "conv: kernel size 2; the NPU takes odd ones")
    assert conv.advice == ADVICE[CHECK]


def test_a_check_with_advice_of_its_own(export):
    def refuse(match):
        return Refusal(f"{match.output.name} is refused", advice="ask the vendor")

    class Refusing(TableQuantizer):
        rows = (Row("conv", (CONV,), checks=(refuse,)), Row("relu", (RELU,)))

    conv = record(export(nn.Sequential(nn.Conv2d(3, 4, 2), nn.ReLU()), IMAGE), Refusing().set_global(CONFIG), "conv2d")
    assert (conv.reason, conv.advice) == ("conv: conv2d is refused", "ask the vendor")


def test_rules_and_filters(branching):
    excluded = record(branching, SmallTable().set_global(CONFIG).set_module_name("conv", None), "conv2d")
    assert excluded.cause == "excluded"
    assert excluded.advice == "remove the rule for module name 'conv', or give it a config in the place of None"
    uncovered = record(branching, SmallTable().set_operator_type(aten.add.Tensor, CONFIG), "conv2d")
    assert (uncovered.cause, uncovered.advice) == ("uncovered", ADVICE["uncovered"])
    filtered = SmallTable().set_global(CONFIG).set_filter_function(lambda node: node.name != "conv2d")
    assert record(branching, filtered, "conv2d").cause == "filtered"


def test_a_batch_norm_that_is_not_folded(export):
    def twice(self, x):
        y = self.conv(x)
        return self.norm(y) + y

    model = export(Apply(twice, conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4)), IMAGE)
    norm = record(model, SmallTable().set_global(CONFIG), "batch_norm")
    assert norm.cause == "multi_user"
    assert "let add read what is behind batch_norm" in norm.advice
    alone = record(
        export(nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3)), IMAGE), SmallTable().set_global(CONFIG), "b"
    )
    assert alone.cause == "not_folded"


def test_what_only_moves_floats(export):
    model = export(Apply(lambda self, x: self.a(x.sigmoid().permute(0, 1, 3, 2).exp()), a=nn.Linear(8, 8)), IMAGE)
    permute = record(model, SmallTable().set_global(CONFIG), "permute")
    assert (permute.cause, permute.advice) == ("float_neighbours", ADVICE["float_neighbours"])


def test_a_quantizer_without_a_table_decides_itself(branching):
    quantizer = ByHand(lambda _nodes: None)
    assert {op.cause for op in explain(branching, quantizer).ops} == {"unprepared"}
    assert "explain(model, quantizer)" in explain(branching).ops[0].advice


def test_the_reasons_are_told_once_prepared(branching):
    prepared = prepare_pt2e(branching, SmallTable().set_global(CONFIG))
    assert {op.op.split(".")[1]: op.cause for op in explain(prepared).float_ops()} == {
        "relu": "multi_user",
        "sigmoid": "no_row",
    }


def test_several_checks_give_the_advice_of_each(export):
    class Two(TableQuantizer):
        rows = (
            Row("first", (CONV,), checks=(lambda _match: Refusal("no", advice="one"),)),
            Row("second", (CONV,), checks=(lambda _match: Refusal("never", advice="two"),)),
            Row("act", (Step(ops(aten.relu.default), (ACT,)),)),
        )

    conv = record(export(nn.Sequential(nn.Conv2d(3, 4, 2), nn.ReLU()), IMAGE), Two().set_global(CONFIG), "conv2d")
    assert (conv.reason, conv.advice) == ("first: no; second: never", "one; or two")
