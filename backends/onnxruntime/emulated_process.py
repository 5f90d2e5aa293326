"""The process that runs ONNX Runtime under valgrind: started once, since that takes seconds, and asked many times."""

from __future__ import annotations

import sys

from quantizer_sdk.backend import ServingProcess
from quantizer_sdk.backends.onnxruntime import session

__all__ = ["EMULATED", "VALGRIND"]

VALGRIND = "valgrind"
# Not as a script: that would put this folder, in which modules are named like Python's own, first on the path.
_SCRIPT = "import runpy, sys; runpy.run_path(sys.argv.pop(1), run_name='__main__')"

EMULATED = ServingProcess(
    [VALGRIND, "--tool=none", "-q", sys.executable, "-c", _SCRIPT, str(session.__file__)], "ONNX Runtime under valgrind"
)
"""Runs the model in a folder on its inputs, as `session.serve` does, on an emulated CPU."""
