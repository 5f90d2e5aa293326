"""The process whose oneDNN does without VNNI: started once, since that takes seconds, and asked many times."""

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

__all__ = ["ask_weaker_process"]

_TIMEOUT = 300.0
_LIMITS = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
_MODULE = "quantizer_sdk.backends.inductor.server"


def ask_weaker_process(folder: Path) -> None:
    """Have the model in a folder run on its inputs, as `server.serve` does.

    Raises:
        LoweringError: The model cannot be lowered or run there, the process dies, or takes more than five minutes.
    """
    process = _process(os.getpid())
    try:
        error = process.ask(folder)
    except LoweringError:
        _process.cache_clear()
        raise
    if error is not None:
        raise LoweringError(f"without VNNI: {textwrap.shorten(error, 400, placeholder=' ...')}")


@functools.cache
def _process(owner: int) -> _WeakerProcess:  # noqa: ARG001  a fork must not talk to the process of its parent
    return _WeakerProcess()


class _WeakerProcess:
    """One process, which takes folders on its standard input and answers with a line each."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._printed = tempfile.TemporaryFile()  # noqa: SIM115  lives as long as the process
        paths = os.pathsep.join(path for path in sys.path if path)
        self._process = subprocess.Popen(  # noqa: S603  our own module
            [sys.executable, "-m", _MODULE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._printed,
            cwd=tempfile.gettempdir(),
            env={**os.environ, **_LIMITS, "PYTHONPATH": paths},
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
            raise LoweringError(f"the process without VNNI took more than {_TIMEOUT:.0f} s")
        code = process.wait()
        self._printed.seek(0)
        words = textwrap.shorten(self._printed.read().decode(errors="replace")[-400:], 400) or "nothing"
        raise LoweringError(f"the process without VNNI ended with exit code {code} (it printed: {words})")

    def _end(self) -> None:
        """End the process, which has nothing to put in order."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
