"""Processes in which oneDNN may use a part of the CPU's instructions only: started once, and asked many times."""

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

from quantizer_sdk.errors import LoweringError

__all__ = ["run_limited"]

_TIMEOUT = 300.0
_MODULE = "quantizer_sdk.backends.onednn.serving"


def run_limited(folder: Path, isa: str) -> None:
    """Run the module in a folder on its inputs, as `serving.serve` does, with these instructions.

    Args:
        folder: Holds a module and inputs; gets the answers.
        isa: What oneDNN reads in ONEDNN_MAX_CPU_ISA, such as "AVX2".

    Raises:
        LoweringError: The kernels refuse the inputs, the process dies, or takes more than five minutes.
    """
    process = _process(os.getpid(), isa)
    try:
        error = process.ask(folder)
    except LoweringError:
        _process.cache_clear()
        raise
    if error is not None:
        raise LoweringError(f"oneDNN with {isa} cannot run the program: {textwrap.shorten(error, 400)}")


@functools.cache
def _process(owner: int, isa: str) -> _LimitedProcess:  # noqa: ARG001  a fork must not talk to the process of its parent
    return _LimitedProcess(isa)


class _LimitedProcess:
    """One process, which takes folders on its standard input and answers with a line each."""

    def __init__(self, isa: str) -> None:
        self._isa = isa
        self._lock = threading.Lock()
        self._printed = tempfile.TemporaryFile()  # noqa: SIM115  lives as long as the process
        path = os.pathsep.join(entry for entry in sys.path if entry)
        self._process = subprocess.Popen(  # noqa: S603  our own script
            [sys.executable, "-m", _MODULE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._printed,
            cwd=tempfile.gettempdir(),
            env={**os.environ, "ONEDNN_MAX_CPU_ISA": isa, "PYTHONPATH": path},
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
            raise LoweringError(f"oneDNN with {self._isa} took more than {_TIMEOUT:.0f} s")
        code = process.wait()
        self._printed.seek(0)
        words = textwrap.shorten(self._printed.read().decode(errors="replace")[-400:], 400) or "nothing"
        raise LoweringError(f"oneDNN with {self._isa} ended with exit code {code} (it printed: {words})")

    def _end(self) -> None:
        """End the process, which has nothing to put in order."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
