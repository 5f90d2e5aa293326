"""The examples run, with less of everything."""

import importlib.util
import sys
from pathlib import Path

from typer.testing import CliRunner

EXAMPLES = Path(__file__).parent.parent / "examples"


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def test_qat_on_digits(monkeypatch, tmp_path):
    import typer

    example = load("qat_digits")
    monkeypatch.setattr(example, "FLOAT_EPOCHS", 4)
    monkeypatch.setattr(example, "QAT_EPOCHS", 2)
    monkeypatch.setattr(example, "BITS", (4,))
    app = typer.Typer()
    app.command()(example.main)
    result = CliRunner().invoke(app, ["--seeds", "1", "--plot", str(tmp_path / "losses.png")])
    assert result.exit_code == 0, result.output
    rows = {
        line.split("│")[1].strip(): line.split("│")[2].strip() for line in result.stdout.splitlines() if "│" in line
    }
    assert set(rows) >= {"float", "8 bits, after training", "4 bits, after training"}
    graph, kernel = (float(rows[f"4 bits, {where}"]) for where in ("in training", "on XNNPACK's kernels"))
    assert abs(graph - kernel) <= 100 / 540 + 0.01  # one image, whose two best classes may be as good
    assert (tmp_path / "losses.png").stat().st_size > 1000
