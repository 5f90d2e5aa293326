"""What explain() says of models at each stage, and of quantizers without a table."""

import dataclasses
import json

import pytest
import torch
from quantizers import CONFIG, INT8, ByHand, SmallTable, annotation, by_hand
from torch import nn

from quantizer_sdk import NotExportedError, SharedQuantizationSpec, calibrate, convert_pt2e, explain, prepare_pt2e

X = torch.randn(2, 4)


@pytest.fixture
def model(export):
    return export(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2), nn.ELU()), X)


def test_it_says_the_same_before_and_after_conversion(model):
    quantizer = SmallTable().set_global(CONFIG)
    before = explain(model, quantizer)
    prepared = prepare_pt2e(model, quantizer)
    calibrate(prepared, [X])
    for later in (explain(prepared), explain(convert_pt2e(prepared))):
        assert all(op.tensors for op in later.ops if op.op == "aten.linear.default")  # which come with the observers
        without = [dataclasses.replace(op, tensors=()) for op in later.ops]
        assert dataclasses.replace(later, ops=tuple(without)) == before


def test_a_bare_model_is_no_module_of_a_program():
    with pytest.raises(NotExportedError, match="explain was given a Linear"):
        explain(nn.Linear(4, 4))


def test_the_text_has_totals_reasons_and_the_users_line(model):
    text = str(explain(model, SmallTable().set_global(CONFIG)))
    assert text.startswith("4 ops: 2 quantized, 0 shared, 0 passthrough, 0 folded, 2 float\n")
    assert "elu" in text
    assert "no row for aten.elu.default" in text
    assert ": return F.elu(input, self.alpha, self.inplace)" in text or "at " in text


def test_json_holds_every_op(model):
    found = json.loads(explain(model, SmallTable().set_global(CONFIG)).to_json())
    assert found["totals"] == {"quantized": 2, "shared": 0, "passthrough": 0, "folded": 0, "float": 2}
    assert [op["node"] for op in found["ops"]] == ["linear", "relu", "linear_1", "elu"]
    assert found["ops"][0]["row"] == "linear"


def test_annotations_by_hand_are_told_from_float_ops(model):
    quantizer = by_hand(
        {
            "linear": ({"input_1": INT8}, INT8),
            "relu": ({}, lambda nodes: SharedQuantizationSpec(nodes["linear"])),
        }
    )
    found = {op.node: (op.state, op.row, op.reason) for op in explain(model, quantizer).ops}
    assert found["linear"] == ("quantized", "annotation", None)
    assert found["relu"] == ("shared", "annotation", None)
    assert found["elu"] == ("float", None, "the quantizer left no annotation on it")


def test_the_inside_of_a_fused_pattern_counts_as_quantized(model):
    def annotate(nodes):
        nodes["linear"].meta["quantization_annotation"] = annotation(_annotated=True)
        nodes["relu"].meta["quantization_annotation"] = annotation({}, INT8)

    linear = explain(model, ByHand(annotate)).ops[0]
    assert (linear.state, linear.reason) == ("quantized", "the quantizer marked it as part of a fused pattern")


def test_a_quantized_graph_from_elsewhere_is_read_by_its_qdq(model, quantize):
    converted = quantize(model, SmallTable().set_global(CONFIG), X)
    converted.meta.clear()  # as after torch.export.save and load
    for node in converted.graph.nodes:
        node.meta.pop("quantizer_sdk_decision", None)
    found = {op.node: (op.state, op.row) for op in explain(converted).ops}
    assert found["linear"] == ("quantized", "q/dq")
    assert found["elu"] == ("float", None)
