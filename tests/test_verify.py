"""Each rule of a stage, broken on purpose: the error names the pass, the node and the breach."""

import pytest
import torch
from quantizers import CONFIG, SmallTable
from torch import nn

from quantizer_sdk import GraphError, prepare_pt2e
from quantizer_sdk.observers import MinMaxObserver
from quantizer_sdk.verify import Stage, verify

X = torch.randn(2, 4)
OPS = torch.ops.quantized_decomposed


@pytest.fixture
def exported(export):
    return export(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), X)


@pytest.fixture
def converted(exported, quantize):
    return quantize(exported, SmallTable().set_global(CONFIG), X)


def calls(model, target):
    return [node for node in model.graph.nodes if node.target is target]


def refuses(model, stage, words):
    with pytest.raises(GraphError, match=words) as caught:
        verify(model, stage, after="the test")
    assert str(caught.value).startswith(f"after the test the graph is no legal {stage.value} graph: ")


def test_legal_graphs_pass(exported, converted):
    verify(exported, Stage.EXPORTED, after="export")
    verify(prepare_pt2e(exported, SmallTable().set_global(CONFIG)), Stage.PREPARED, after="prepare")
    verify(converted, Stage.CONVERTED, after="convert")


@pytest.mark.parametrize("stage", list(Stage))
def test_a_get_attr_of_nothing(converted, stage):
    weight = next(node for node in converted.graph.nodes if node.op == "get_attr")
    weight.target = "nowhere.at.all"
    refuses(converted, stage, r"nowhere\.at\.all, which the model does not hold")


def test_an_annotation_that_is_left(exported):
    next(iter(exported.graph.nodes)).meta["quantization_annotation"] = object()
    refuses(exported, Stage.PREPARED, "still carries its annotation")


def test_an_observer_that_is_left(exported):
    refuses(prepare_pt2e(exported, SmallTable().set_global(CONFIG)), Stage.CONVERTED, "_0 is still called")


def test_an_observer_without_a_call(converted):
    converted.add_module("forgotten", MinMaxObserver())
    refuses(converted, Stage.CONVERTED, "observer forgotten is left in the module tree")


def test_a_call_of_a_module(converted):
    converted.add_module("head", nn.ReLU())
    (output,) = [node for node in converted.graph.nodes if node.op == "output"]
    with converted.graph.inserting_before(output):
        converted.graph.call_module("head", (calls(converted, OPS.dequantize_per_tensor.default)[-1],))
    refuses(converted, Stage.CONVERTED, r"head.* calls a module")


def test_codes_read_as_they_are(converted):
    quantize = calls(converted, OPS.quantize_per_tensor.default)[0]
    with converted.graph.inserting_after(quantize):
        converted.graph.call_function(torch.ops.aten.neg.default, (quantize,))
    refuses(converted, Stage.CONVERTED, "neg.* reads the codes of quantize_per_tensor_default without dequantizing")


def test_a_dequantize_with_two_users(converted):
    linear = calls(converted, torch.ops.aten.linear.default)[0]
    with converted.graph.inserting_after(linear):
        converted.graph.call_function(torch.ops.aten.neg.default, (linear.args[0],))
    refuses(converted, Stage.CONVERTED, "has 2 users; backends match a dequantize by its one user")


def test_a_constant_quantized_at_run_time(converted):
    converted.register_buffer("late", torch.randn(3))
    with converted.graph.inserting_before(next(iter(converted.graph.nodes))):
        late = converted.graph.get_attr("late")
        converted.graph.call_function(OPS.quantize_per_tensor.default, (late, 0.1, 0, -128, 127, torch.int8))
    refuses(converted, Stage.CONVERTED, "quantizes the constant late at run time")


def test_a_use_before_its_definition(exported):
    first, second = (node for node in exported.graph.nodes if node.target is torch.ops.aten.linear.default)
    first.args = (second, *first.args[1:])
    refuses(exported, Stage.EXPORTED, "used before it has been defined")
