import json
import subprocess
import sys

import pytest
import torch
from typer.testing import CliRunner

from quantizer_sdk import convert_pt2e, prepare_pt2e
from quantizer_sdk.backends.xnnpack import XNNPACKQuantizer
from quantizer_sdk.commands import app


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def assert_one_line(result, exit_code):
    assert result.exit_code == exit_code
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    return line


@pytest.fixture
def exported(tmp_path):
    path = tmp_path / "net.pt2"
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU()).eval()
    torch.export.save(torch.export.export(net, (torch.randn(1, 3, 8, 8),)), path)
    return path


def test_version():
    result = run("--version")
    assert result.exit_code == 0
    assert result.stdout.startswith("quantizer-sdk 0.")


def test_without_a_command_the_help_names_them():
    output = run().output
    assert "demo" in output
    assert "explain" in output


def test_a_missing_file(tmp_path):
    line = assert_one_line(run("explain", tmp_path / "none.pt2"), exit_code=2)
    assert "none.pt2" in line
    assert "No such file" in line


def test_a_folder(tmp_path):
    assert "Is a directory" in assert_one_line(run("explain", tmp_path), exit_code=2)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 half an archive"], ids=["empty", "text", "cut off"])
def test_a_file_that_is_no_archive(tmp_path, content):
    path = tmp_path / "net.pt2"
    path.write_bytes(content)
    assert "torch.export.save" in assert_one_line(run("explain", path), exit_code=2)


def test_a_state_dict_is_no_exported_program(tmp_path):
    path = tmp_path / "net.pt2"
    torch.save(torch.nn.Linear(2, 2).state_dict(), path)
    line = assert_one_line(run("explain", path), exit_code=2)
    assert "no exported program" in line
    assert "above" not in line


@pytest.mark.parametrize("command", ["explain", "demo"])
def test_an_unknown_backend(command, exported):
    arguments = [command, exported] if command == "explain" else [command]
    line = assert_one_line(run(*arguments, "--backend", "acme"), exit_code=2)
    assert "no backend 'acme'" in line
    assert "xnnpack" in line


def test_the_demo_refuses_a_broken_model_before_any_work(tmp_path):
    assert "none.pt2" in assert_one_line(run("demo", "--model", tmp_path / "none.pt2"), exit_code=2)


def test_the_demo_says_what_model_it_takes(exported):
    line = assert_one_line(run("demo", "--model", exported), exit_code=1)
    assert "[1, 3, 8, 8]" in line
    assert "[batch, 3, 224, 224]" in line


def test_out_must_be_a_folder(tmp_path):
    path = tmp_path / "file"
    path.touch()
    result = run("demo", "--out", path)
    assert result.exit_code == 2
    words = " ".join(result.stderr.replace("│", " ").split())  # a box breaks lines where the path's length wants it
    assert "File exists" in words


def test_explain_says_what_becomes_of_each_op(exported):
    result = run("explain", exported)
    assert result.exit_code == 0
    assert "aten.conv2d.default" in result.stdout
    assert "quantized" in result.stdout


def test_explain_as_a_page(exported, tmp_path):
    result = run("explain", exported, "--html", tmp_path / "page.html")
    assert result.exit_code == 0
    assert "quantized" in result.stdout
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<h1>net.pt2 on xnnpack</h1>" in page
    assert "aten.conv2d.default" in page
    refused = run("explain", exported, "--html", tmp_path / "none" / "page.html")
    assert refused.exit_code == 2
    assert "cannot write to" in refused.stderr


def test_explain_of_a_quantized_model_says_what_became_of_its_ops(tmp_path):
    x = torch.randn(1, 3, 8, 8)
    prepared = prepare_pt2e(torch.export.export(torch.nn.Conv2d(3, 4, 3).eval(), (x,)).module(), XNNPACKQuantizer())
    prepared(x)
    path = tmp_path / "quantized.pt2"
    torch.export.save(torch.export.export(convert_pt2e(prepared), (x,)), path)
    (op,) = json.loads(run("explain", path, "--json").stdout)["ops"]
    assert (op["op"], op["row"], op["tensors"][0]["calibrated"]) == (
        "aten.conv2d.default",
        "conv",
        [float(x.min()), float(x.max())],
    )


def test_explain_as_json(exported):
    result = run("explain", exported, "--json")
    ops = {op["op"]: op["state"] for op in json.loads(result.stdout)["ops"]}
    assert ops["aten.conv2d.default"] == "quantized"


def test_without_its_packages_it_names_the_extra():
    # A finder that hides rich, as if it were not installed.
    code = """
import importlib.util, sys
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "rich" else find_spec(name, *rest)
from quantizer_sdk.cli import main
main()
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr == 'quantizer-sdk needs rich: pip install "quantizer-sdk[cli]"\n'
