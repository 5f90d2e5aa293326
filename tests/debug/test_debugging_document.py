"""What docs/debugging.md shows runs, and its tables are whole."""

import dataclasses
import re
from pathlib import Path

from documents import run_snippets

from quantizer_sdk import LayerError

DOCUMENT = (Path(__file__).parents[2] / "docs" / "debugging.md").read_text()


def test_its_snippets_run_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = run_snippets("debugging.md")
    for picture in ("layers", "histograms", "channels"):
        assert (tmp_path / f"{picture}.png").read_bytes().startswith(b"\x89PNG")
    graph, kernels = names["comparison"], names["kernels"]
    assert [layer.node for layer in kernels.layers] == [layer.node for layer in graph.layers]
    assert kernels.runner in str(kernels)
    # What a kernel computes is within one code of the graph, and the layer's own error is the graph's.
    again = names["compare"](names["exported"], names["prepared"], names["images"][:2])
    for one, other in zip(kernels.layers, again.layers, strict=True):
        assert one.own_sqnr == other.own_sqnr
        if one.rounded:
            assert abs(one.max_error_lsb - other.max_error_lsb) <= 1.01


def test_the_table_of_figures_names_fields():
    table = DOCUMENT.partition("## What the figures are")[2].partition("A layer is")[0]
    fields = {field.name for field in dataclasses.fields(LayerError)}
    assert set(re.findall(r"`(\w+)`[,` |]", table)) <= fields


def test_the_measured_tables_are_there():
    assert "30 of 30 found." in DOCUMENT
    assert "| compare |" in DOCUMENT
