import dataclasses
import json
import math

import pytest
from rich.console import Console

from quantizer_sdk.demo.plot import _labels, plot_layers
from quantizer_sdk.demo.result import Column, Coverage, DemoResult, FloatOp, Layer
from quantizer_sdk.demo.table import from_json, render, to_json

FLOAT = Column(
    name="fp32",
    top1_graph=18,
    top1_kernel=17,
    agreement_graph=20,
    agreement_kernel=19,
    sqnr_graph=None,
    sqnr_kernel=math.inf,
    noise=None,
    noise_floor=None,
    coverage=None,
    subgraphs=1,
    delegated=160,
    non_delegated=(),
    integer_kernels=0,
    float_kernels=79,
    conversions=0,
    size=20_000_000,
    latency=8.0,
    layers=(),
)
SOFTMAX = FloatOp(node="softmax", op="aten.softmax.int", module="head", source="net.py:7", reason="no integer kernel")
INT8 = dataclasses.replace(
    FLOAT,
    name="int8",
    sqnr_graph=21.25,
    sqnr_kernel=33.0,
    noise=6.5,
    noise_floor=7.5,
    coverage=Coverage(quantized=91, shared=17, folded=49, left_float=(SOFTMAX,)),
    non_delegated=("aten.view_copy.default", "aten.view_copy.default"),
    integer_kernels=95,
    float_kernels=2,
    conversions=3,
    size=5_000_000,
    latency=4.0,
    layers=(
        Layer(node="conv2d", op="aten.batch_norm.default", module="stem", sqnr=30.5),
        Layer(node="add", op="aten.add.Tensor", module="", sqnr=-math.inf),
    ),
)
PEER = dataclasses.replace(
    INT8,
    name="int8 peer",
    coverage=None,
    layers=(
        Layer(node="conv2d", op="aten.batch_norm.default", module="stem", sqnr=20.0),
        Layer(node="relu", op="aten.relu.default", module="act", sqnr=19.0),
        Layer(node="add", op="aten.add.Tensor", module="", sqnr=10.0),
    ),
)
RESULT = DemoResult(
    model="Net",
    backend="acme",
    images=20,
    calibration_images=8,
    repeats=100,
    columns=(FLOAT, INT8, PEER),
    seconds=(("export", 1.5),),
)


def printed(result, width=80):
    console = Console(width=width)
    with console.capture() as capture:
        console.print(render(result))
    return capture.get()


def row(text, label):
    (line,) = [line for line in text.splitlines() if line.startswith(f"│ {label}")]
    return [cell.strip() for cell in line.strip("│").split("│")][1:]


def test_json_round_trip_keeps_every_figure():
    assert from_json(to_json(RESULT)) == RESULT


def test_json_is_strict():
    def refuse(constant):
        pytest.fail(f"{constant} is no JSON")

    fields = json.loads(to_json(RESULT), parse_constant=refuse)
    assert fields["columns"][0]["sqnr_kernel"] == "Infinity"
    assert fields["columns"][1]["coverage"]["left_float"][0]["reason"] == "no integer kernel"


def test_a_row_a_figure_and_a_column_a_program():
    text = printed(RESULT)
    assert row(text, "top-1, kernel") == ["17/20", "17/20", "17/20"]
    assert row(text, "SQNR float → graph") == ["-", "21.2 dB", "21.2 dB"]
    assert row(text, "SQNR graph → kernel") == ["identical", "33.0 dB", "33.0 dB"]
    assert row(text, "ops quantized") == ["-", "91", "-"]
    assert row(text, "integer kernel nodes") == ["0", "95", "95"]
    assert row(text, "program size") == ["20.00 MB", "5.00 MB", "5.00 MB"]
    assert row(text, "latency") == ["8.00 ms", "4.00 ms", "4.00 ms"]
    assert row(text, "  speed-up over fp32") == ["1.00x", "2.00x", "2.00x"]


def test_every_op_left_float_is_listed_with_its_reason():
    assert "Left float in int8: softmax (aten.softmax.int): no integer kernel" in printed(RESULT)


def test_operators_outside_the_delegate_are_named():
    text = printed(RESULT)
    assert "Not delegated in int8: 2 aten.view_copy.default." in text
    assert "Not delegated in fp32" not in text


def test_the_table_fits_eighty_columns():
    assert max(len(line) for line in printed(RESULT, width=200).splitlines() if line.startswith("│")) <= 80


def test_the_picture_takes_columns_with_different_layers(tmp_path):
    path = tmp_path / "layers.png"
    plot_layers(RESULT, path)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_layers_of_all_columns_stand_in_the_graph_s_order():
    assert list(_labels([INT8, PEER]).values()) == ["stem: conv2d", "act: relu", "add"]
