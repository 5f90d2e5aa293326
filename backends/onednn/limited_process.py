"""Processes in which oneDNN may use a part of the CPU's instructions only: started once, and asked many times."""

from __future__ import annotations

import functools
import sys

from quantizer_sdk.backend import ServingProcess

__all__ = ["limited_process"]

_MODULE = "quantizer_sdk.backends.onednn.serving"


@functools.cache
def limited_process(isa: str) -> ServingProcess:
    """Return the process that runs the module in a folder on its inputs, as `serving.serve` does.

    Args:
        isa: What oneDNN reads in ONEDNN_MAX_CPU_ISA, such as "AVX2".
    """
    environment = {"ONEDNN_MAX_CPU_ISA": isa}
    return ServingProcess([sys.executable, "-m", _MODULE], f"oneDNN with {isa}", environment=environment)
