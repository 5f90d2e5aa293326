"""What docs/calibration.md shows runs, and its table of observers is whole."""

import re
from pathlib import Path

from documents import run_snippets

from quantizer_sdk import observers
from quantizer_sdk.observers import ObserverBase

DOCUMENT = (Path(__file__).parents[2] / "docs" / "calibration.md").read_text()


def test_its_snippets_run_in_order():
    names = run_snippets("calibration.md")
    assert names["quantized"](names["images"][0]).shape == (2, 4, 12, 12)


def test_it_lists_every_observer():
    public = {getattr(observers, name) for name in observers.__all__}
    kinds = {it.__name__ for it in public if isinstance(it, type) and issubclass(it, ObserverBase)} - {"ObserverBase"}
    table = DOCUMENT.partition("## Observers")[2].partition("## What it costs")[0]
    assert set(re.findall(r"`(\w+Observer)\b", table)) == kinds


def test_the_measured_table_is_there():
    assert "| histogram |" in DOCUMENT
    assert "| torchao's histogram |" in DOCUMENT
