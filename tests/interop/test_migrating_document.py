"""What docs/migrating.md shows runs, its imports are there, and its comments are what is printed."""

import importlib
import re
from pathlib import Path

import pytest

DOCUMENT = (Path(__file__).parents[2] / "docs" / "migrating.md").read_text()
ROWS = [
    line.strip("| ").split(" | ")
    for line in DOCUMENT.split("## Imports")[1].split("```")[0].splitlines()
    if "|" in line
]


def test_its_snippets_run_in_order(capsys):
    names = {}
    snippets = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
    for snippet in snippets:
        exec(compile(snippet, "docs/migrating.md", "exec"), names)
        printed = capsys.readouterr().out.splitlines()
        promised = re.findall(r"^print\(.*\)  # (.*)$", snippet, re.MULTILINE)
        assert [line for line in promised if line not in printed] == []
    assert len(snippets) == 6


@pytest.mark.parametrize("row", [row for row in ROWS if len(row) == 2 and row[1].startswith("`quantizer_sdk")])
def test_its_names_are_there(row):
    old, new = row
    place = importlib.import_module(re.match(r"`([\w.]+)", new)[1]) if "calibrate(" not in new else None
    for name in re.findall(r"`(\w+)`", old.split(": ", 1)[-1]) if place else ():
        assert hasattr(place, name), name


def test_it_links_to_pages_that_are_there():
    for name in re.findall(r"\]\(([\w-]+\.md)\)", DOCUMENT):
        assert (Path(__file__).parents[2] / "docs" / name).exists(), name
