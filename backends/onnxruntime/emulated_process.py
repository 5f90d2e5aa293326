"""The process that runs ONNX Runtime under valgrind: started once, since that takes seconds, and asked many times."""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import select
import subprocess
import sys
import tempfile
import textwrap
import threading
from pathlib import Path

from quantizer_sdk.backends.onnxruntime import session
from quantizer_sdk.errors import LoweringError

__all__ = ["VALGRIND", "run_emulated"]

VALGRIND = "valgrind"
_TIMEOUT = 300.0
# Not as a script: that would put this folder, in which modules are named like Python's own, first on the path.
_SCRIPT = "import runpy, sys; runpy.run_path(sys.argv.pop(1), run_name='__main__')"


def run_emulated(folder: Path) -> None:
    """Run the model in a folder on its inputs, as `session.serve` does, on an emulated CPU.

    Raises:
        LoweringError: The runtime refuses the model or its inputs, the process dies, or takes more than five minutes.
    """
    process = _process(os.getpid())
    try:
        error = process.ask(folder)
    except LoweringError:
        _process.cache_clear()
        raise
    if error is not None:
        reason = textwrap.shorten(error, 400, placeholder=" ...")
        raise LoweringError(f"ONNX Runtime under valgrind cannot run the program: {reason}")


@functools.cache
def _process(owner: int) -> _EmulatedProcess:  # noqa: ARG001  a fork must not talk to the process of its parent
    return _EmulatedProcess()


class _EmulatedProcess:
    """One process, which takes folders on its standard input and answers with a line each."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._printed = tempfile.TemporaryFile()  # noqa: SIM115  lives as long as the process
        self._process = subprocess.Popen(  # noqa: S603  our own script
            [VALGRIND, "--tool=none", "-q", sys.executable, "-c", _SCRIPT, str(session.__file__)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._printed,
            cwd=tempfile.gettempdir(),
        )
        atexit.register(self._end)

    def ask(self, folder: Path) -> str | None:
        """Have a folder run, and return what went wrong.

        Raises:
            LoweringError: The process dies or does not answer; it is ended.
        """
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        with self._lock:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(f"{folder}\n".encode())
                process.stdin.flush()
            answered, _, _ = select.select([process.stdout], [], [], _TIMEOUT)
            line = process.stdout.readline() if answered else b""
        if line:
            error: str | None = json.loads(line)["error"]
            return error
        if not answered:
            self._end()
            raise LoweringError(f"ONNX Runtime under valgrind took more than {_TIMEOUT:.0f} s")
        code = process.wait()
        self._printed.seek(0)
        words = textwrap.shorten(self._printed.read().decode(errors="replace")[-400:], 400) or "nothing"
        raise LoweringError(f"ONNX Runtime under valgrind ended with exit code {code} (it printed: {words})")

    def _end(self) -> None:
        """End the process, which has nothing to put in order."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
