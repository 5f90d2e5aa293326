"""The script of a process that runs programs for another: it serves folders that are named on its standard input."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from quantizer_sdk.backends.onednn.program import OneDNNProgram
from quantizer_sdk.backends.onednn.saturation import sums_saturate

__all__ = ["ANSWERS", "INPUTS", "MODULE", "serve"]

MODULE, INPUTS, ANSWERS = "module.pt", "inputs.pt", "answers.pt"
"""The files of a folder: a module, tuples of tensors to run it on, and what `serve` writes: results and kernels."""


def _run_folder(folder: Path) -> None:
    module = torch.load(folder / MODULE, weights_only=False)
    batches = torch.load(folder / INPUTS)
    first = batches[0] if batches else ()
    program = OneDNNProgram(module, first)
    answers = {
        "outputs": [program.run(*inputs) for inputs in batches],
        "kernels": program.kernels() if batches else (),
        "delegation": program.delegation() if batches else None,
        "saturates": sums_saturate(),
    }
    torch.save(answers, folder / ANSWERS)


def serve() -> None:
    """For each line of standard input, run the folder of that name; print a line of JSON with what went wrong."""
    torch.set_num_threads(1)
    for line in sys.stdin:
        error = None
        try:
            _run_folder(Path(line.rstrip("\n")))
        except Exception as e:  # noqa: BLE001  it is told to the other process
            error = str(e) or type(e).__name__
        sys.stdout.write(json.dumps({"error": error}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
