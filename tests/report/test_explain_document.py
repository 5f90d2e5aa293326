"""What docs/explain.md shows runs, prints what it promises, and its tables are whole."""

import dataclasses
import re
from pathlib import Path

from quantizer_sdk import OpRecord, TensorRecord
from quantizer_sdk.refusal import ADVICE
from quantizer_sdk.report import STATES, findings, live, saved

DOCUMENT = (Path(__file__).parents[2] / "docs" / "explain.md").read_text()


def table(heading):
    text = DOCUMENT.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    cells = [line.split("|")[1] for line in text.partition("|---|")[2].splitlines() if line.startswith("| `")]
    return {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}


def test_its_snippets_run_in_order(capsys):
    names, promised = {}, []
    for snippet in re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL):
        exec(compile(snippet, "docs/explain.md", "exec"), names)
        promised += re.findall(r"^print\((?!explain).*\)  # (.*)$", snippet, re.MULTILINE)
    printed = capsys.readouterr().out.splitlines()
    assert [line for line in promised if line not in printed] == []
    assert len(promised) == 4


def test_its_tables_are_whole():
    assert table("States") == set(STATES)
    assert table("Float ops") == set(ADVICE)
    assert table("What is known of an op") == {field.name for field in dataclasses.fields(TensorRecord)}
    sources = "".join(Path(module.__file__).read_text() for module in (findings, live, saved))
    kinds = set(re.findall(r"Suspicion\(\s*\"(\w+)\"", sources)) | {"requantized"}
    assert table("Warnings") == kinds | {"unused_rule", "uncalibrated", "no_record"}


def test_every_field_of_an_op_is_named():
    for field in dataclasses.fields(OpRecord):
        assert f"`{field.name}`" in DOCUMENT or field.name in {"node", "op", "state"}, field.name
