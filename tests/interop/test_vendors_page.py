"""docs/interop-vendors.md is what its script finds: here for quantizers that are quick to make and to run."""

import json
from pathlib import Path

import pytest

import quantizer_sdk

ROOT = Path(quantizer_sdk.__file__).parents[1]
PAGE = (ROOT / "docs" / "interop-vendors.md").read_text()

QUICK = [
    ("Vulkan, dynamic", "mlp"),
    ("Vulkan, dynamic", "reused"),
    ("XNNPACK, dynamic", "conv_bn_relu"),
    ("Samsung Exynos", "branches"),
    ("Qualcomm, 8a8w", "mlp"),
    ("Cadence, default", "residual"),
    ("torchao X86Inductor", "residual"),
    ("ours: XNNPACK", "depthwise"),
    ("ours: XNNPACK", "norms"),
    ("ours: x86, oneDNN", "elementwise"),
]


@pytest.fixture
def vendors(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from vendors import page, quantizers, reasons

    return page, quantizers.VENDORS, reasons


@pytest.mark.parametrize(("name", "model"), QUICK)
def test_its_cells(vendors, name, model):
    page, known, reasons = vendors
    found = reasons.judged(model, known[name], training=False)
    assert page.tables_of(PAGE)["ptq"][name][model] == page.cell_of(found.reasons)


def test_it_is_written_from_what_was_measured(vendors):
    page, known, reasons = vendors
    measured = json.loads((ROOT / "benchmarks" / "results" / "interop.json").read_text())
    versions = PAGE.split("--write` (")[1].split(").")[0]
    assert page.markdown(measured, versions) == PAGE
    assert list(measured) == list(known)
    cells = [cell for entry in measured.values() for kind in ("ptq", "qat") for cell in entry.get(kind, {}).values()]
    assert {reason for cell in cells for reason in cell} <= reasons.NOTES.keys()  # none is unknown


def test_every_quantizer_of_executorch_is_in_it(vendors):
    _page, known, _reasons = vendors
    backends = Path(__import__("executorch").__path__[0]) / "backends"
    modules = {vendor.module for vendor in known.values()}
    for path in backends.glob("**/*quantizer*.py"):
        if "class " in (text := path.read_text()) and "test" not in path.parts and "(Quantizer):" in text:
            name = ".".join(("executorch", "backends", *path.relative_to(backends).with_suffix("").parts))
            assert name in modules or name.endswith("arm_quantizer_utils"), name
