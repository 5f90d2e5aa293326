"""The commands that docs/command-line.md shows run in order."""

import re
import shlex
from pathlib import Path

from typer.testing import CliRunner

from quantizer_sdk.commands import app

DOCUMENT = (Path(__file__).parents[2] / "docs" / "command-line.md").read_text()


def test_its_commands_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (snippet,) = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
    exec(compile(snippet, "docs/command-line.md", "exec"), {})
    (console,) = re.findall(r"```console\n(.*?)```", DOCUMENT, re.DOTALL)
    for line in console.splitlines():
        name, *arguments = shlex.split(line.removeprefix("$ "))
        assert name == "quantizer-sdk"
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
        assert result.stdout
    assert {path.name for path in tmp_path.iterdir()} == {
        *("model.pt2", "samples.npz", "model.int8.onnx", "quantized.pt2")
    }


def test_it_names_every_command_of_a_users_own_model():
    for command in ("quantize", "compare", "tune", "inspect", "explain"):
        assert f"quantizer-sdk {command} " in DOCUMENT
