"""What docs/interop.md shows runs, and does what it says."""

import re
from pathlib import Path

import torch

DOCUMENT = (Path(__file__).parents[2] / "docs" / "interop.md").read_text()


def test_its_snippets_run(capsys):
    names = {}
    for snippet in re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL):
        exec(compile(snippet, "docs/interop.md", "exec"), names)
    printed = capsys.readouterr().out
    assert "4 ops: 2 quantized, 0 shared, 1 folded, 1 float" in printed
    assert re.search(r"elu\s+float", printed)
    assert "torch.Size([2, 8, 14, 14])" in printed
    weights = [value for value in names["quantized"].state_dict().values() if value.dim() == 4]
    assert [weight.dtype for weight in weights] == [torch.int8]


def test_it_names_tests_that_are_there():
    for name in re.findall(r"`(tests/[^`]+)`", DOCUMENT):
        assert (Path(__file__).parents[2] / name).exists(), name
