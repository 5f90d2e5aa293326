"""A process that serves folders: started once, since that takes seconds, and asked many times."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from quantizer_sdk.errors import LoweringError

__all__ = ["ServingProcess"]


class ServingProcess:
    """One process, which takes names of folders on its standard input, a line each, and answers each with a line.

    The answer is JSON, `{"error": null}` or what went wrong in words; what was made of the folder lies in it. The
    process starts with the first question, and anew in each fork and after it has died.

    Args:
        command: The program and its arguments.
        name: What errors call it, such as "oneDNN with AVX2".
        environment: Variables beside those of this process.
        timeout: Seconds that an answer may take.
    """

    def __init__(
        self,
        command: Sequence[str],
        name: str,
        *,
        environment: Mapping[str, str] | None = None,
        timeout: float = 300.0,
    ) -> None:
        self._command, self._name, self._timeout = tuple(command), name, timeout
        self._environment = dict(environment or {})
        self._lock = threading.Lock()
        self._running: tuple[int, subprocess.Popen[bytes]] | None = None
        self._printed: IO[bytes] | None = None

    def ask(self, folder: Path) -> None:
        """Have a folder served.

        Raises:
            LoweringError: What is asked cannot be done, the process dies, or it takes too long to answer; then it is
                ended.
        """
        with self._lock:
            process = self._started()
            assert process.stdin is not None
            assert process.stdout is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(f"{folder}\n".encode())
                process.stdin.flush()
            answered, _, _ = select.select([process.stdout], [], [], self._timeout)
            line = process.stdout.readline() if answered else b""
            if not line:
                raise self._lost(process, answered=bool(answered))
        error: str | None = json.loads(line)["error"]
        if error is not None:
            reason = textwrap.shorten(error, 400, placeholder=" ...")
            raise LoweringError(f"{self._name} cannot run the program: {reason}")

    def end(self) -> None:
        """End the process, which has nothing to put in order; the next question starts another."""
        owner, process = self._running or (0, None)
        self._running = None
        if process is not None and owner == os.getpid() and process.poll() is None:
            process.kill()
            process.wait()

    def _started(self) -> subprocess.Popen[bytes]:
        owner, process = self._running or (0, None)
        if process is None or owner != os.getpid():  # a fork must not talk to the process of its parent
            self._printed = tempfile.TemporaryFile()  # noqa: SIM115  lives as long as the process
            paths = os.pathsep.join(entry for entry in sys.path if entry)
            process = subprocess.Popen(  # noqa: S603  our own scripts
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._printed,
                cwd=tempfile.gettempdir(),
                env={**os.environ, "PYTHONPATH": paths, **self._environment},
            )
            self._running = os.getpid(), process
            atexit.register(self.end)
        return process

    def _lost(self, process: subprocess.Popen[bytes], *, answered: bool) -> LoweringError:
        """Return why there is no answer, with no process left."""
        if not answered:
            self.end()
            return LoweringError(f"{self._name} took more than {self._timeout:.0f} s")
        code = process.wait()
        self._running = None
        assert self._printed is not None
        self._printed.seek(0)
        words = textwrap.shorten(self._printed.read().decode(errors="replace")[-400:], 400) or "nothing"
        return LoweringError(f"{self._name} ended with exit code {code} (it printed: {words})")
