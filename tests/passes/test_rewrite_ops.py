"""Rewrites in the core: taken only where all that takes an op's place is claimed, and undone without a trace."""

import pytest
import torch
from quantizers import CONFIG
from torch import nn

from quantizer_sdk import ACT, Row, Step, TableQuantizer, ops, prepare_pt2e, rewrites
from quantizer_sdk.passes.rewrite_ops import rewrite_ops

aten = torch.ops.aten
MUL = Row("mul", (Step(ops(aten.mul.Tensor), (ACT, ACT)),))
SIGMOID = Row("sigmoid", (Step(ops(aten.sigmoid.default)),))


class Table(TableQuantizer):
    rows = (MUL, SIGMOID)
    rewrites = (rewrites.SILU, rewrites.SCALAR_OPERANDS, rewrites.BATCH_NORM)

    def default_config(self):
        return CONFIG


class WithoutSigmoid(Table):
    rows = (MUL,)


class Silu(nn.Module):
    def forward(self, x):
        return nn.functional.silu(x)


class Written(nn.Module):
    """silu writes into a value that the model reads again."""

    def forward(self, x):
        y = x * x
        nn.functional.silu(y, inplace=True)
        return y


def targets(model):
    return [node.target for node in model.graph.nodes if node.op == "call_function" and "guards" not in node.name]


def test_an_op_is_rewritten_if_all_in_its_place_is_claimed(export):
    model = Table().transform_for_annotation(export(Silu(), torch.randn(4, 3)))
    assert targets(model) == [aten.sigmoid.default, aten.mul.Tensor]


def test_and_stays_if_one_is_not(export):
    model = export(Silu(), torch.randn(4, 3))
    before = str(model.graph)
    assert str(WithoutSigmoid().transform_for_annotation(model).graph) == before


def test_a_rule_for_the_new_op_decides(export):
    model = Table().set_global(CONFIG).set_operator_type(aten.sigmoid, None)
    assert targets(model.transform_for_annotation(export(Silu(), torch.randn(4, 3)))) == [aten.silu.default]


def test_the_model_that_is_prepared_is_left_as_it_was(export):
    model = export(Silu(), torch.randn(4, 3))
    prepare_pt2e(model, Table())
    assert targets(model) == [aten.silu.default]


def test_what_others_read_is_not_written_by_another_op(export):
    model = export(Written(), torch.randn(4, 3))
    x = torch.randn(4, 3)
    before = model(x)
    Table().transform_for_annotation(model)
    model.recompile()
    torch.testing.assert_close(model(x), before)


def test_a_number_becomes_a_tensor_of_its_operands_dtype_and_none_is_left_when_undone(export):
    class Double(nn.Module):
        def forward(self, x):
            return x * 3

    model = export(Double(), torch.randn(4, 3))
    rewrite_ops(model, [rewrites.SCALAR_OPERANDS], lambda _node: False)
    assert list(model.buffers()) == []
    rewrite_ops(model, [rewrites.SCALAR_OPERANDS], lambda _node: True)
    (constant,) = model.buffers()
    assert (constant.dtype, constant.tolist()) == (torch.float32, [3.0])


@pytest.mark.parametrize("training", [True, False])
def test_a_batch_norm_that_trains_is_no_constant(training):
    module = nn.BatchNorm2d(3).train(training)
    model = torch.export.export(module, (torch.randn(2, 3, 4, 4),)).module()
    rewrite_ops(model, [rewrites.BATCH_NORM], lambda _node: True)
    assert (aten.conv2d.default in targets(model)) is not training
