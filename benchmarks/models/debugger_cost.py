"""What `compare` costs beside running both models: `python -m models.debugger_cost time --json OUT`."""

from __future__ import annotations

import argparse
import gc
import json
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from torch.fx import GraphModule

from models.entry import Inputs
from models.x86_zoo import ENTRIES
from quantizer_sdk import calibrate, compare, convert_pt2e, prepare_pt2e
from quantizer_sdk.backends.xnnpack import XNNPACKQuantizer, get_symmetric_quantization_config
from quantizer_sdk.demo.metrics import interleaved_medians

__all__ = ["IMAGES", "MODEL"]

MODEL, IMAGES = "efficientnet_lite0", 20
_CALIBRATION = 4


def _models() -> tuple[GraphModule, GraphModule, list[Inputs]]:
    entry = ENTRIES[MODEL]
    images = entry.examples(entry.size, IMAGES)
    model = torch.export.export(entry.build(entry.size), images[0]).module()
    prepared = prepare_pt2e(model, XNNPACKQuantizer().set_global(get_symmetric_quantization_config(True)))
    calibrate(prepared, images[:_CALIBRATION])
    return model, convert_pt2e(prepared), images


def _both(model: GraphModule, quantized: GraphModule, images: list[Inputs]) -> None:
    with torch.no_grad():
        for image in images:
            model(*image)
            quantized(*image)


def _peak() -> float:
    """Return the most memory that this process has had since it was last asked, MB."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    (peak,) = (int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    return peak / 1024


def measure(what: str, rounds: int) -> dict[str, float]:
    """Return seconds of each in turn, or the peak of one of them, each process one."""
    torch.set_num_threads(1)
    model, quantized, images = _models()
    calls: dict[str, Any] = {
        "both": lambda: _both(model, quantized, images),
        "compare": lambda: compare(model, quantized, images),
        "without blame": lambda: compare(model, quantized, images, blame=False),
    }
    if what == "time":
        return interleaved_medians(calls, repeats=rounds, warmup=1, clock=time.process_time)
    gc.collect()
    _peak()
    calls[what]()
    return {what: _peak()}


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["time", "both", "compare", "without blame"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    options.json.write_text(json.dumps(measure(options.what, options.rounds)), encoding="utf-8")


if __name__ == "__main__":
    _main()
