"""The README's Python is what it says: it runs, it is as long as promised, and prints what its comments claim."""

import re
from pathlib import Path

import pytest
import torch

README = (Path(__file__).parent.parent / "README.md").read_text()
QUICKSTART, X86, TRAINING, OWN_QUANTIZER = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def lines_of_code(snippet):
    return [line for line in snippet.splitlines() if line.strip()]


def test_quickstart_runs_and_its_kernels_are_integer(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(QUICKSTART, "README quickstart", "exec"), names)
    printed = capsys.readouterr().out
    assert "0 float" in printed
    assert "'Conv2d'" in printed
    assert names["logits"].shape == (2, 4)
    assert (tmp_path / "model.pte").stat().st_size > 0
    assert len(lines_of_code(QUICKSTART)) <= 25


def test_all_routes_of_x86_run_on_integers(capsys):
    exec(compile(X86, "README x86", "exec"), {})
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed] == ["onednn", "inductor", "onnxruntime"]
    assert "qconv_pointwise" in printed[0]
    assert "qconv" in printed[1]
    assert "QLinearConv" in printed[2]


def test_training_ends_in_integer_weights():
    names = {}
    exec(compile(TRAINING, "README training", "exec"), names)
    dtypes = [value.dtype for value in names["quantized"].state_dict().values() if value.dim() > 1]
    assert dtypes == [torch.int8, torch.int8]
    assert names["schedule"].steps == 6


def test_own_quantizer_runs_and_explains(capsys):
    exec(compile(OWN_QUANTIZER, "README own quantizer", "exec"), {"__name__": "readme"})
    printed = capsys.readouterr().out
    assert "groups=8, the NPU supports 1" in printed
    assert re.search(r"max_pool2d\s+shared", printed)
    assert re.search(r"relu\s+quantized", printed)
    assert re.search(r"elu\s+float\s+aten\.elu\.default: no row for aten\.elu\.default", printed)
    assert len(lines_of_code(OWN_QUANTIZER)) <= 40


@pytest.mark.parametrize("name", re.findall(r"\]\(([^)]+)\)", README))
def test_links_lead_somewhere(name):
    assert (Path(__file__).parent.parent / name).exists(), name
