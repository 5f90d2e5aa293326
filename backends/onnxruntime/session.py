"""How ONNX Runtime is set up, and the whole of what runs under an emulator: this file needs onnxruntime and numpy only.

Run as a script, it serves folders that are named on its standard input.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["COUNTS", "INPUTS", "MODEL", "OPTIMIZED", "OUTPUTS", "SETTINGS", "SessionSettings", "open_session", "serve"]

MODEL, SETTINGS, INPUTS, OUTPUTS, OPTIMIZED = (
    "model.onnx",
    "settings.json",
    "inputs.npz",
    "outputs.npz",
    "optimized.onnx",
)
"""The files of a folder that the script serves; arrays are named "RUN.PLACE", such as "0.1"."""

COUNTS = "counts"
"""The array of how many inputs each run has."""

_ERRORS_ONLY = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSettings:
    """What of ONNX Runtime's configuration changes its numbers or its speed here.

    Attributes:
        optimize: Whether it rewrites the graph, which is what makes integer kernels of q/dq nodes.
        exact_sums: Whether weights are turned to uint8, whose products with uint8 do not saturate on CPUs without VNNI
            (`session.x64quantprecision`). Where the CPU has VNNI, gemms only take about twice as long. None asks
            the CPU.
        threads: The number of threads of one run.
    """

    optimize: bool = True
    exact_sums: bool | None = None
    threads: int = 1


def open_session(model: bytes | str, settings: SessionSettings, optimized: str | Path | None = None) -> Any:
    """Open a session on the CPU.

    Three of the runtime's optimizations are off, since they change numbers: it would quantize float weights between
    dequantize and quantize, replace a dequantize before a quantize by one set of qparams for both, and quantize the
    activations of products by weights of few bits.

    Args:
        model: The ONNX model, or the path of its file.
        settings: With `exact_sums` decided.
        optimized: Where to write the optimized graph; None for nowhere.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if settings.optimize else levels.ORT_DISABLE_ALL
    options.intra_op_num_threads = settings.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    options.add_session_config_entry("session.disable_double_qdq_remover", "1")
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "0")
    if settings.exact_sums:
        options.add_session_config_entry("session.x64quantprecision", "1")
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    return onnxruntime.InferenceSession(
        model, options, providers=["CPUExecutionProvider"], disabled_optimizers=["WeightBiasQuantization"]
    )


def _run_folder(folder: Path) -> None:
    """Run a folder's model on its inputs and write what it gives."""
    import numpy as np

    settings = SessionSettings(**json.loads((folder / SETTINGS).read_text()))
    session = open_session((folder / MODEL).read_bytes(), settings, folder / OPTIMIZED)
    names = [entry.name for entry in session.get_inputs()]
    outputs = {}
    with np.load(folder / INPUTS) as arrays:
        for run, count in enumerate(arrays[COUNTS]):
            if count != len(names):
                message = f"the program takes {len(names)} inputs; got {count}"
                raise ValueError(message)
            feed = {name: arrays[f"{run}.{place}"] for place, name in enumerate(names)}
            results = session.run(None, feed)
            outputs.update({f"{run}.{place}": result for place, result in enumerate(results)})
    np.savez(folder / OUTPUTS, **outputs)


def settings_json(settings: SessionSettings) -> str:
    """Return settings as the script reads them."""
    return json.dumps(dataclasses.asdict(settings))


def serve() -> None:
    """For each line of standard input, run the folder of that name; print a line of JSON with what went wrong."""
    for line in sys.stdin:
        error = None
        try:
            _run_folder(Path(line.rstrip("\n")))
        except Exception as e:  # noqa: BLE001  the runtime's errors have no public base class
            error = str(e) or type(e).__name__
        sys.stdout.write(json.dumps({"error": error}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
