"""What a runtime prints: the only place where some of them explain their failures."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
from collections.abc import Iterator
from typing import IO

__all__ = ["Printed", "captured_stderr"]

_STDERR = 2


class Printed:
    """What was printed to stderr.

    Attributes:
        text: It; empty until the block ends.
    """

    __slots__ = ("text",)

    def __init__(self) -> None:
        self.text = ""

    def lines(self) -> list[str]:
        """Return its lines without the empty ones."""
        return [line for line in self.text.splitlines() if line]


@contextlib.contextmanager
def captured_stderr() -> Iterator[Printed]:
    """Hold back what the process prints to stderr inside the block, from Python and from native code.

    Bindings print through `sys.stderr`, which notebooks and pytest replace, and native code to the file descriptor:
    both are caught. The descriptor is the process's own, so what other threads print meanwhile is caught too.
    """
    if sys.stderr is not None:
        sys.stderr.flush()
    printed, text = Printed(), io.StringIO()
    with _scratch_file() as sink:
        stderr = os.dup(_STDERR)
        os.dup2(sink.fileno(), _STDERR)
        try:
            with contextlib.redirect_stderr(text):
                yield printed
        finally:
            os.dup2(stderr, _STDERR)
            os.close(stderr)
            if sink.tell():  # the descriptors share one file position
                sink.seek(0)
                text.write(sink.read().decode(errors="replace"))
            printed.text = text.getvalue()


def _scratch_file() -> IO[bytes]:
    """Open an unnamed file: in memory where the system has that, for it takes 5 µs off every block against 17."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("stderr"), "w+b", buffering=0)
    return tempfile.TemporaryFile(buffering=0)
