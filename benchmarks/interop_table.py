"""Vendors' quantizers on this library's engine and on torchao's: `python benchmarks/interop_table.py`.

Each quantizer, on each model of `vendors/models.py`, for inference and, where it has a form for it, for training. What
differs is named, and where it can be, shown by taking its cause away: see docs/interop-vendors.md, which `--write`
writes. Results are kept in benchmarks/results/interop.json, so that some quantizers can be run anew without the others.
"""

from __future__ import annotations

import argparse
import json
import logging
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from vendors.models import MODELS
from vendors.page import TRAINED, cell_of, markdown
from vendors.quantizers import VENDORS, why_not
from vendors.reasons import judged

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "interop.json"
PAGE = HERE.parent / "docs" / "interop-vendors.md"


def measured(name: str) -> dict[str, Any]:
    """Return what one quantizer comes to: why it cannot be made, or the reasons by model."""
    vendor = VENDORS[name]
    error = why_not(vendor)
    if error is not None:
        print(f"{name}: {error}", flush=True)
        return {"error": error}
    result: dict[str, Any] = {"ptq": {}, "qat": {}}
    for kind, models in (("ptq", tuple(MODELS)), ("qat", TRAINED if vendor.trains else ())):
        for model in models if vendor.only is None else vendor.only if kind == "ptq" else ():
            cell = judged(model, vendor, training=kind == "qat")
            result[kind][model] = list(cell.reasons)
            unknown = f" {cell.detail}" if "?" in cell.reasons else ""
            print(
                f"{name}, {kind}, {model}: {cell_of(cell.reasons)}, {cell.quantizes} quantize ops{unknown}", flush=True
            )
    return result


def main() -> None:
    """Run, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vendors", nargs="*", help="beginnings of names; all without it")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name}, with what is known of the others")
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in VENDORS:
        if options.vendors is None or name.startswith(tuple(options.vendors)):
            known[name] = measured(name)
            RESULTS.parent.mkdir(exist_ok=True)
            RESULTS.write_text(json.dumps({name: known[name] for name in VENDORS if name in known}, indent=1) + "\n")
    if options.write:
        packages = ", ".join(f"{package} {version(package)}" for package in ("torch", "torchao", "executorch"))
        PAGE.write_text(markdown(known, packages))


if __name__ == "__main__":
    main()
