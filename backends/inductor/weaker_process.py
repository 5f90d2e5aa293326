"""The process whose oneDNN does without VNNI: started once, since that takes seconds, and asked many times."""

from __future__ import annotations

import sys

from quantizer_sdk.backend import ServingProcess

__all__ = ["WEAKER"]

WEAKER = ServingProcess(
    [sys.executable, "-m", "quantizer_sdk.backends.inductor.server"],
    "inductor without VNNI",
    environment={"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"},
)
"""Lowers the model in a folder and runs it on its inputs, as `server.serve` does."""
