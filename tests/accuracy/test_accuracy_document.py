"""What docs/accuracy.md shows runs, its tools are public, and its measured tables are there."""

import re
from pathlib import Path

import torch
from documents import run_snippets

import quantizer_sdk

DOCUMENT = (Path(__file__).parents[2] / "docs" / "accuracy.md").read_text()


def quick(snippet):
    return snippet.replace("budget_s=60", "budget_s=60, iterations=5").replace("iterations=50", "iterations=5")


def test_its_snippets_run_in_order(capsys):
    names = run_snippets("accuracy.md", quick)
    assert "as it is" in capsys.readouterr().out
    assert names["labelled"].metric == "agreement"
    assert names["quantized"](names["images"][0]).shape == (2, 4)
    assert {value.dtype for key, value in names["quantized"].state_dict().items() if key.endswith("weight")} <= {
        torch.int8
    }


def test_its_tools_are_public():
    for name in re.findall(r"^\| `(\w+)\(", DOCUMENT, re.MULTILINE):
        assert name in quantizer_sdk.__all__


def test_the_measured_tables_are_there():
    assert "| adaround |" in DOCUMENT
    assert DOCUMENT.count("| smooth_quant 0.75 |") == 3
