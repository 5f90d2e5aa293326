"""Calls that return their operand in inference go; what only looks like one stays."""

import pytest
import torch
from quantizers import CONFIG, Apply, SmallTable, targets
from torch import nn
from torch.nn import functional

from quantizer_sdk import explain, prepare_pt2e
from quantizer_sdk.model_copy import copy_model
from quantizer_sdk.passes.remove_identities import remove_identities
from quantizer_sdk.verify import Stage, verify


def tidied(model):
    result = copy_model(model)
    remove_identities(result)
    result.recompile()
    verify(result, Stage.EXPORTED, after="remove_identities")
    return result


X = torch.randn(3, 4)


@pytest.mark.parametrize(
    "dropout",
    [nn.Dropout(0.3), nn.Dropout2d(0.3), nn.AlphaDropout(0.3), nn.FeatureAlphaDropout(0.3)],
    ids=lambda module: type(module).__name__,
)
def test_dropout_of_inference_goes(export, dropout):
    x = torch.randn(2, 3, 5, 5)
    model = export(nn.Sequential(nn.Conv2d(3, 4, 3), dropout, nn.ReLU()), x)
    assert len(targets(model)) == 3
    assert targets(tidied(model)) == ["conv2d", "relu"]
    assert torch.equal(tidied(model)(x), model(x))


def test_dropout_of_training_stays():
    model = torch.export.export(nn.Sequential(nn.Dropout(0.5)).train(), (X,)).module()
    assert targets(tidied(model)) == ["dropout"]


@pytest.mark.parametrize("name", ["alias", "detach"])
def test_ops_that_name_their_operand_anew_go(export, name):
    op = getattr(torch.ops.aten, name).default
    model = export(Apply(lambda self, x: torch.relu(op(x))), X)
    assert targets(tidied(model)) == ["relu"]
    assert torch.equal(tidied(model)(X), model(X))


def test_a_chain_of_identities_goes_whole(export):
    def run(self, x):
        return functional.dropout(functional.dropout(x, training=False).detach(), training=False)

    model = export(Apply(run), X)
    assert targets(tidied(model)) == []
    assert torch.equal(tidied(model)(X), X)


def test_a_tensor_written_in_forward_is_read_as_a_constant(export):
    model = export(Apply(lambda self, x: x * torch.tensor([1.0, 2.0, 3.0, 4.0])), X)
    assert targets(model) == ["lift_fresh_copy", "detach_", "mul"]
    result = tidied(model)
    assert targets(result) == ["mul"]
    assert torch.equal(result(X), model(X))


@pytest.mark.parametrize("through_view", [False, True], ids=["itself", "a view"])
def test_a_tensor_that_forward_writes_into_is_copied_for_each_run(export, through_view):
    def run(self, x):
        total = torch.tensor([1.0, 2.0, 3.0, 4.0])
        written = total.view(2, 2) if through_view else total
        written += x.sum()
        return x * total

    model = export(Apply(run), X)
    result = tidied(model)
    assert "lift_fresh_copy" in targets(result)
    first = result(X)
    assert torch.equal(result(X), first)
    assert torch.equal(model(X), first)


def test_a_constant_that_is_returned_is_copied_for_each_run(export):
    model = export(Apply(lambda self, x: (x + 1, torch.tensor([1.0]))), X)
    result = tidied(model)
    result(X)[1].zero_()
    assert result(X)[1].item() == 1.0


def test_ops_around_dropout_fuse(export):
    x = torch.randn(1, 3, 4, 4)
    model = export(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Dropout(), nn.ReLU()), x)
    explanation = explain(model, SmallTable().set_global(CONFIG))
    assert [(op.op, op.row) for op in explanation.ops] == [
        ("aten.conv2d.default", "conv_relu"),
        ("aten.relu.default", "conv_relu"),
    ]


def test_the_users_graph_keeps_its_identities(export):
    model = export(nn.Sequential(nn.Linear(4, 4), nn.Dropout()), X)
    prepare_pt2e(model, SmallTable().set_global(CONFIG))
    assert targets(model) == ["linear", "dropout"]
