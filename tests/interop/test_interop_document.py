"""What docs/interop.md shows runs, and does what it says."""

import re
from pathlib import Path

import torch
from documents import run_snippets

DOCUMENT = (Path(__file__).parents[2] / "docs" / "interop.md").read_text()


def test_its_snippets_run(capsys):
    names = run_snippets("interop.md")
    printed = capsys.readouterr().out
    assert "4 ops: 2 quantized, 0 shared, 0 passthrough, 1 folded, 1 float" in printed
    assert re.search(r"elu\s+float", printed)
    assert "torch.Size([2, 8, 14, 14])" in printed
    weights = [value for value in names["quantized"].state_dict().values() if value.dim() == 4]
    assert [weight.dtype for weight in weights] == [torch.int8]


def test_it_names_tests_that_are_there():
    for name in re.findall(r"`(tests/[^`]+)`", DOCUMENT):
        assert (Path(__file__).parents[2] / name).exists(), name
