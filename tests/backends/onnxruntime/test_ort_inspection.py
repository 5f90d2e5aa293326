"""`inspect_onnx` on files of ours and of others: what runs on integers, and why the rest does not."""

import json
import re

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from quantizer_sdk import LoweringError
from quantizer_sdk.backends.onnxruntime import export_onnx, inspect_onnx
from quantizer_sdk.backends.onnxruntime.inspection import State

SX, SW = np.float32(0.02), np.float32(0.01)


def write(path, nodes, constants, outputs=("y",), opset=20, shape=(1, 4, 8, 8)):
    """Write a file of another producer: x, float, goes in."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], producer_name="somebody")
    model.ir_version = 10
    onnx.save(model, path)
    return inspect_onnx(path)


CONSTANTS = {
    "sx": SX,
    "zx": np.uint8(128),
    "w": np.random.default_rng(0).integers(-127, 128, (4, 4, 3, 3)).astype(np.int8),
    "sw": SW,
    "zw": np.int8(0),
    "b": np.arange(4, dtype=np.int32),
    "sb": SX * SW,
    "zb": np.int32(0),
    "sy": np.float32(0.05),
    "zy": np.uint8(100),
    "other": np.float32(0.07),
}


def pair(name, source, scale="sx", zero="zx"):
    """Quantize and dequantize."""
    return [
        helper.make_node("QuantizeLinear", [source, scale, zero], [f"{name}_q"], name=f"{name}_quantize"),
        helper.make_node("DequantizeLinear", [f"{name}_q", scale, zero], [name], name=f"{name}_dequantize"),
    ]


def convolution(bias="db", source="dx", weight="dw"):
    nodes = [helper.make_node("DequantizeLinear", ["w", "sw", "zw"], ["dw"])] if weight == "dw" else []
    if bias == "db":
        nodes.append(helper.make_node("DequantizeLinear", ["b", "sb", "zb"], ["db"]))
    inputs = [source, weight, *([bias] if bias else [])]
    return [*nodes, helper.make_node("Conv", inputs, ["c"], name="conv", pads=[1] * 4)]


def after(*operators, source="c"):
    """Operators of one operand in a row, which end in `y`."""
    names = [source, *(f"v{place}" for place in range(len(operators)))]
    return [
        helper.make_node(kind, [names[place]], [names[place + 1]], name=kind.lower())
        for place, kind in enumerate(operators)
    ], names[-1]


def why_of(report, operator):
    return {op.why for op in report.ops if op.operator.endswith(operator) and op.state is State.FLOAT}


def test_a_convolution_that_is_quantized_all_around_is_integer(tmp_path):
    report = write(tmp_path / "m.onnx", [*pair("dx", "x"), *convolution(), *pair("y", "c", "sy", "zy")], CONSTANTS)
    assert [op.state for op in report.ops if op.operator == "QLinearConv"] == [State.INTEGER]
    assert report.count(State.FLOAT) == 0
    assert report.producer == "somebody"


RELU, RELU_RESULT = after("Relu")
TANH, TANH_RESULT = after("Tanh")
REASONS = {
    "output": ([*pair("dx", "x"), *convolution()], ("c",), "Conv", "its float result is an output of the model"),
    "float weight": (
        [*pair("dx", "x"), *convolution(None, weight="wf"), *pair("y", "c", "sy", "zy")],
        ("y",),
        "Conv",
        "its weight is float: store it as int8",
    ),
    "float input": (
        [*convolution(None, source="x"), *pair("y", "c", "sy", "zy")],
        ("y",),
        "Conv",
        "its input x is a float input of the model",
    ),
    "float bias": (
        [*pair("dx", "x"), *convolution("bf"), *pair("y", "c", "sy", "zy")],
        ("y",),
        "Conv",
        "its bias is float: store it as int32",
    ),
    "two quantizes": (
        [*pair("dx", "x"), *convolution(), *pair("y", "c", "sy", "zy"), *pair("z", "c", "other", "zy")],
        ("y", "z"),
        "Conv",
        "its result is quantized 2 times, with different qparams",
    ),
    "activation": (
        [*pair("dx", "x"), *convolution(), *RELU, *pair("y", RELU_RESULT, "sy", "zy")],
        ("y",),
        "Conv",
        "range does not imply it|range of the QuantizeLinear behind does not imply it",
    ),
    "no kernel": (
        [*pair("dx", "x"), *convolution(), *pair("t", "c", "sy", "zy"), *after("Tanh", source="t")[0]],
        ("v0",),
        "Tanh",
        "ONNX Runtime has no integer kernel for Tanh",
    ),
    "float consumer": (
        [*pair("dx", "x"), *convolution(), *TANH, *pair("y", TANH_RESULT, "sy", "zy")],
        ("y",),
        "Conv",
        "Tanh is computed with it in float, and has no integer kernel here",
    ),
    "signed": (
        [*pair("dx", "x", "sx", "zs"), *pair("y", "a", "sx", "zs"), helper.make_node("Add", ["dx", "dx2"], ["a"])],
        ("y", "dx"),
        "Add",
        "int8 codes",
    ),
}


@pytest.mark.parametrize("name", REASONS)
def test_the_reason_is_named(name, tmp_path):
    nodes, outputs, operator, reason = REASONS[name]
    constants = {
        **CONSTANTS,
        "wf": np.ones((4, 4, 3, 3), np.float32),
        "bf": np.ones(4, np.float32),
        "zs": np.int8(3),
    }
    if name == "signed":
        quantize, dequantize, *last, add = nodes
        again = helper.make_node("DequantizeLinear", ["dx_q", "sx", "zs"], ["dx2"])
        nodes = [quantize, dequantize, again, add, *last]
    used = {item for node in nodes for item in node.input}
    constants = {key: value for key, value in constants.items() if key in used}
    report = write(tmp_path / "m.onnx", nodes, constants, outputs)
    found = why_of(report, operator)
    assert found, str(report)
    assert all(re.search(reason, why) for why in found), found


def test_a_float_model_says_so(export, tmp_path):
    module = nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).eval()
    x = torch.randn(1, 4, 8, 8)
    export_onnx(export(module, x), (x,), tmp_path / "m.onnx")
    report = inspect_onnx(tmp_path / "m.onnx")
    assert report.count(State.INTEGER) == report.count(State.CONVERT) == 0
    assert {op.why for op in report.ops if op.state is State.FLOAT} == {"nothing in the model is quantized"}


def test_operators_of_integers_need_no_fusion(tmp_path):
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "sx", "zx"], ["q"]),
        helper.make_node("QLinearConv", ["q", "sx", "zx", "w", "sw", "zw", "sy", "zy"], ["r"], pads=[1] * 4),
        helper.make_node("DequantizeLinear", ["r", "sy", "zy"], ["y"]),
    ]
    constants = {key: CONSTANTS[key] for key in ("sx", "zx", "w", "sw", "zw", "sy", "zy")}
    report = write(tmp_path / "m.onnx", nodes, constants)
    assert [op.state.value for op in report.ops if op.operator != "Transpose"] == ["convert", "integer", "convert"]


def test_the_report_is_text_and_json(tmp_path):
    nodes, outputs, _, reason = REASONS["no kernel"]
    used = {item for node in nodes for item in node.input}
    report = write(tmp_path / "m.onnx", nodes, {k: v for k, v in CONSTANTS.items() if k in used}, outputs)
    text = str(report)
    assert "1 x QLinearConv" in text
    assert "in float, and why:" in text
    assert reason in text
    data = json.loads(report.to_json())
    assert data["totals"]["float"] == 1
    assert [op["why"] for op in data["ops"] if op["operator"] == "Tanh"] == [reason]


def test_our_files_name_the_users_module_and_line(export, tmp_path):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(8, 4)

        def forward(self, x):
            return torch.tanh(self.inner(x)) + 1

    x = torch.randn(2, 8)
    export_onnx(export(Net(), x), (x,), tmp_path / "m.onnx")
    ops = {op.operator: op for op in inspect_onnx(tmp_path / "m.onnx").ops}
    assert "return torch.tanh(self.inner(x)) + 1" in ops["Tanh"].source if "Tanh" in ops else ops["Add"].source


@pytest.mark.parametrize("content", [b"", b"no model", None])
def test_what_is_no_model_is_refused(content, tmp_path):
    path = tmp_path / "m.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(LoweringError, match=r"no ONNX model|cannot read|cannot load"):
        inspect_onnx(path)
