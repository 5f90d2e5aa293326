"""What docs/mixed-precision.md shows runs, and its file of rules is one."""

import re
from pathlib import Path

import torch
from documents import run_snippets

from quantizer_sdk import load_config
from quantizer_sdk.backends.x86 import X86Quantizer
from quantizer_sdk.observers import PercentileObserver

DOCUMENT = (Path(__file__).parents[2] / "docs" / "mixed-precision.md").read_text()


def test_its_snippets_run_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = run_snippets("mixed-precision.md")
    assert names["result"].after.sqnr >= names["found"].sqnr + 3
    assert names["quantized"](names["images"][0]).shape == (2, 10)
    assert names["quantizer"]._rules.module_names == names["result"].quantizer._rules.module_names


def test_its_rules_are_read(tmp_path):
    (rules,) = re.findall(r"```toml\n(.*?)```", DOCUMENT, re.DOTALL)
    (tmp_path / "rules.toml").write_text(rules)
    found = load_config(tmp_path / "rules.toml", X86Quantizer("onnxruntime"))._rules
    assert found.module_names["features.0"] is None
    assert found.module_names["head"].input_activation.is_dynamic
    (config,) = found.global_config
    assert config.input_activation.observer_or_fake_quant_ctr == PercentileObserver.with_args(percentile=99.9)
    assert torch.ops.aten.add.Tensor in found.operator_types
