"""The commands for people with a model of their own: files in, files out, one-line errors, exit statuses."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from quantizer_sdk.commands import app


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def assert_one_line(result, exit_code):
    assert result.exit_code == exit_code, result.output
    (line,) = (line for line in result.stderr.splitlines() if line.startswith("error: "))
    assert "Traceback" not in result.stderr
    return line


class Tokens(nn.Module):
    """Takes int64 ids and a mask by keyword, as language models do."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        self.linear = nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, input_ids, attention_mask):
        x = self.embedding(input_ids) * attention_mask.unsqueeze(-1)
        return {"logits": self.head(self.linear(x).relu().mean(1))}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Models and samples as a user has them."""
    path = tmp_path_factory.mktemp("user")
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    cnn = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 5),
    ).eval()
    torch.export.save(torch.export.export(cnn, (torch.randn(2, 3, 12, 12),)), path / "cnn.pt2")
    ids, mask = torch.randint(0, 20, (2, 6)), torch.ones(2, 6)
    program = torch.export.export(Tokens().eval(), (), {"input_ids": ids, "attention_mask": mask})
    torch.export.save(program, path / "tokens.pt2")
    np.savez(path / "cnn.npz", random.standard_normal((21, 3, 12, 12)).astype(np.float32))
    np.savez(
        path / "tokens.npz", input_ids=random.integers(0, 20, (20, 6)), attention_mask=np.ones((20, 6), np.float32)
    )
    (path / "images" / "cats").mkdir(parents=True)
    for index in range(10):
        Image.fromarray(random.integers(0, 256, (20, 14, 3), np.uint8)).save(path / "images" / "cats" / f"{index}.png")
    return path


def quantized(*arguments):
    result = run("quantize", *arguments)
    assert result.exit_code == 0, result.output
    return result


def test_to_onnx_with_a_folder_of_images(folder):
    result = quantized(folder / "cnn.pt2", "--data", folder / "images", "--to", "onnx", "--json")
    content = json.loads(result.stdout)
    assert content["file"] == str(folder / "cnn.int8.onnx")
    assert content["size"] == (folder / "cnn.int8.onnx").stat().st_size
    assert content["backend"] == "x86"
    assert content["sqnr"] > 20
    assert content["measured_on"] == "1 batch held out"
    assert "shorter side to 12, middle 12 x 12" in content["notes"][0]
    assert content["program"]["totals"]["float"] == 0
    from quantizer_sdk.backends.x86 import run_onnx

    (logits,) = run_onnx(folder / "cnn.int8.onnx", torch.zeros(2, 3, 12, 12))
    assert logits.shape == (2, 5)


def test_to_pte(folder):
    out = folder / "program.pte"
    result = quantized(folder / "cnn.pt2", "--data", folder / "cnn.npz", "-b", "xnnpack", "-o", out)
    assert "note: 1 of 21 samples are left out: 10 batches of 2" in result.stdout
    assert "signal to noise: " in result.stdout
    assert f"{out}: {out.stat().st_size:,} bytes for ExecuTorch with XNNPACK" in result.stdout
    assert " 0 float; 0 ops left to the portable runtime" in result.stdout
    again = run("inspect", out)
    assert again.exit_code == 0
    assert (
        again.stdout.strip()
        == result.stdout[result.stdout.index(again.stdout.split(" bytes")[0] + " bytes, ") :].strip()
    )
    assert json.loads(run("inspect", out, "--json").stdout)["totals"]["portable"] == 0


def test_to_pt2_by_keyword_and_compared(folder):
    out = folder / "tokens.int8.pt2"
    quantized(folder / "tokens.pt2", "-d", folder / "tokens.npz", "--to", "pt2")
    loaded = torch.export.load(out).module()
    samples = np.load(folder / "tokens.npz")
    inputs = {name: torch.from_numpy(samples[name][:2]) for name in samples.files}
    expected = torch.export.load(folder / "tokens.pt2").module()(**inputs)["logits"]
    noise = (loaded(**inputs)["logits"] - expected).square().sum() / expected.square().sum()
    assert 0 < noise < 0.01
    inspected = run("inspect", out)
    assert "linear" in inspected.stdout
    picture = folder / "layers.png"
    arguments = ("compare", folder / "tokens.pt2", out, "--data", folder / "tokens.npz", "--plot", picture, "--json")
    figures = json.loads(run(*arguments).stdout)
    assert figures["batches"] == 10
    assert {"linear", "head"} <= {layer["module"] for layer in figures["layers"]}
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_rules_out_of_a_file_and_into_one(folder):
    made = folder / "made.toml"
    arguments = (folder / "cnn.pt2", "--data", folder / "cnn.npz", "-b", "x86", "--to", "onnx")
    plain = json.loads(quantized(*arguments, "--json").stdout)
    target = plain["sqnr"] + 1
    result = json.loads(quantized(*arguments, "--sqnr", target, "--save-config", made, "--json").stdout)
    assert result["sqnr"] >= target
    assert result["mixed_precision"]["met"] is True
    again = json.loads(quantized(*arguments, "--config", made, "--json").stdout)
    assert again["sqnr"] == result["sqnr"]
    line = assert_one_line(run("quantize", *arguments, "--sqnr", 300, "--max-float-layers", 0), exit_code=1)
    assert "no rules were found that reach 300 dB, at most 0 float layers" in line
    made.write_text(made.read_text().replace("version = 1", "version = 7"))
    assert "version is 7" in assert_one_line(run("quantize", *arguments, "--config", made), exit_code=2)


class Uneven(nn.Module):
    """One channel behind the norm is large, which smoothing evens out."""

    def __init__(self):
        super().__init__()
        self.norm, self.wide, self.head = nn.LayerNorm(32), nn.Linear(32, 64), nn.Linear(64, 4)
        with torch.no_grad():
            self.norm.weight[3] = 80.0
            self.wide.weight[:, 3] *= 0.01

    def forward(self, x):
        return self.head(torch.relu(self.wide(self.norm(x))))


def test_the_report_looks_at_the_model_that_tuning_made(tmp_path):
    torch.manual_seed(0)
    torch.export.save(torch.export.export(Uneven().eval(), (torch.randn(4, 32),)), tmp_path / "uneven.pt2")
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((40, 32)).astype(np.float32))
    page = tmp_path / "report.html"
    result = quantized(tmp_path / "uneven.pt2", "-d", tmp_path / "x.npy", "--to", "onnx", "--tune", 3, "--report", page)
    assert re.search(r"^> .*smooth_quant", result.stdout, re.MULTILINE)
    text = page.read_text()
    assert "<title>uneven.pt2: quantization report</title>" in text
    (measured,) = re.findall(r"signal to noise: (.* dB) on", result.stdout)
    assert f"<small>Against the given model</small><b>{measured}</b>" in text
    noise = dict(re.findall(r'data-name="(\w+)" data-state="\w+" data-blame="[^"]+" data-sqnr="([^"]+)"', text))
    assert float(noise["layer_norm"]) > 10  # 0 beside the given model, for smoothing has scaled its result
    gains = [float(gain) for gain in re.findall(r'class="gain">(?:about )?([\d.]+) dB', text)]
    assert all(gain < 10 for gain in gains)


def test_tuned_in_a_second(folder):
    arguments = (folder / "cnn.pt2", "--data", folder / "cnn.npz", "--to", "onnx", "--tune", 1)
    assert "as it is" in quantized(*arguments).stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("cnn.pt2", "-d", "tokens.npz"), "has no array 'input', only input_ids, attention_mask"),
        (("tokens.pt2", "-d", "images"), "images, which are one input"),
        (("cnn.pt2", "-d", "none.npz"), "does not exist"),
        (("none.pt2", "-d", "cnn.npz"), "No such file"),
        (("cnn.pt2", "-d", "cnn.npz", "-b", "acme"), "no backend 'acme'"),
        (("cnn.pt2", "-d", "cnn.npz", "-b", "xnnpack", "--to", "onnx"), ".onnx is written by --backend x86"),
        (("cnn.pt2", "-d", "cnn.npz", "--to", "tflite"), "backend 'xnnpack' writes .pte, .pt2"),
        (("cnn.pt2", "-d", "images", "--mean", "1,2"), "mean has 2 numbers"),
        (("cnn.pt2", "-d", "cnn.npz", "--batch-size", "3"), "exported for batches of 2"),
        (("cnn.pt2", "-d", "cnn.npz", "--config", "rules.toml"), "No such file"),
    ],
)
def test_wrong_files_are_told_in_one_line(folder, monkeypatch, arguments, words):
    monkeypatch.chdir(folder)
    assert words in assert_one_line(run("quantize", *arguments), exit_code=2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("cnn.pt2",), "Missing option"),
        (("cnn.pt2", "-d", "cnn.npz", "-o", "cnn.pt2"), "is the model itself"),
        (("cnn.pt2", "-d", "cnn.npz", "-o", "no/such/folder.pte"), "there is no folder"),
        (("cnn.pt2", "-d", "cnn.npz", "--report", "."), "is a folder"),
        (("cnn.pt2", "-d", "images", "--mean", "a"), "expected numbers"),
        (("cnn.pt2", "-d", "cnn.npz", "--max-float-layers", "-1"), "--max-float-layers"),
    ],
)
def test_wrong_arguments_show_how_it_is_called(folder, monkeypatch, arguments, words):
    monkeypatch.chdir(folder)
    result = run("quantize", *arguments)
    assert result.exit_code == 2
    assert words in result.stderr.replace("\n", " ")


@pytest.mark.parametrize("command", ["quantize", "compare", "tune", "inspect"])
def test_help_names_the_options(command):
    output = run(command, "--help").output
    assert "--help" in output
    assert ("--data" in output) == (command != "inspect")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete(shell):
    result = CliRunner().invoke(app, [], env={"_QUANTIZER_SDK_COMPLETE": f"source_{shell}"}, prog_name="quantizer-sdk")
    assert "quantizer-sdk" in result.output
    assert "complete" in result.output or "compdef" in result.output
