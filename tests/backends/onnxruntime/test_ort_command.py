"""`quantizer-sdk inspect model.onnx`, found through the installed backends."""

import dataclasses
import json

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from quantizer_sdk import find_backend
from quantizer_sdk.backends.onnxruntime import export_onnx, inspect_onnx
from quantizer_sdk.commands import app


@pytest.fixture(autouse=True)
def _inspector(monkeypatch):
    backend = dataclasses.replace(find_backend("x86"), inspectors={".onnx": inspect_onnx})
    monkeypatch.setattr("quantizer_sdk.backend.backend_names", lambda: ("x86",))
    monkeypatch.setattr("quantizer_sdk.backend.find_backend", lambda name: backend)


@pytest.fixture
def model(export, tmp_path):
    x = torch.randn(1, 3, 8, 8)
    path = tmp_path / "model.onnx"
    export_onnx(export(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh()), x), (x,), path)
    return path


def run(*arguments):
    return CliRunner().invoke(app, ["inspect", *map(str, arguments)])


def test_the_report_is_printed(model):
    result = run(model)
    assert result.exit_code == 0
    assert "in float, and why:" in result.stdout
    assert "nothing in the model is quantized" in result.stdout


def test_the_report_is_printed_as_json(model):
    data = json.loads(run(model, "--json").stdout)
    assert data["totals"]["integer"] == 0
    assert data["totals"]["float"] >= 1
    assert data["producer"].startswith("quantizer_sdk")


@pytest.mark.parametrize(
    ("name", "content", "message", "code"),
    [
        ("none.onnx", None, "cannot read", 1),
        ("text.onnx", b"hello", "no ONNX model", 1),
        ("model.tflite", b"", "no installed backend inspects model.tflite; files of these kinds: .onnx", 2),
    ],
)
def test_what_cannot_be_inspected_is_one_line(name, content, message, code, tmp_path):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    result = run(path)
    assert result.exit_code == code
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line
