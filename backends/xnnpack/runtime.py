"""A lowered program on ExecuTorch's own runtime: imports and console kept quiet, failures readable."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from quantizer_sdk.errors import LoweringError, MissingDependencyError

if TYPE_CHECKING:
    import torch

    from quantizer_sdk.backend import Delegation, Kernel

__all__ = ["XNNPACKProgram", "importing", "quiet"]

_NOISY_LOGGERS = ("executorch", "torchao", "torch.utils._pytree")
_STDERR = 2
# Printed once by the CPU detection library on any machine that is no phone; says nothing about the program.
_CPU_DETECTION = "[cpuinfo_utils.cpp:"


class XNNPACKProgram:
    """A program in ExecuTorch's .pte format whose delegated parts run on XNNPACK's kernels.

    It is loaded at the first `run`. While the runtime loads or runs, the process's stderr is held back to be put into
    the error message, so two threads must not run programs at the same time.

    Attributes:
        buffer: The .pte file's bytes.
    """

    def __init__(self, buffer: bytes, delegation: Delegation) -> None:
        self.buffer = buffer
        self._delegation = delegation
        self._kernels: tuple[Kernel, ...] | None = None
        self._program: Any = None
        self._method: Any = None

    def run(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Run the program once.

        Args:
            *inputs: CPU tensors with the shapes and dtypes of the example inputs that the program was lowered with; a
                dynamic dimension may have any size in its range. Other memory formats are made contiguous, because
                the runtime reads a channels-last tensor as if it were contiguous.

        Returns:
            The model's outputs. They own their memory: a later call changes nothing in them.

        Raises:
            LoweringError: The runtime cannot load the program, or refuses these inputs; says what it printed.
            MissingDependencyError: ExecuTorch is not installed.
        """
        if self._method is None:
            self._load()
        arguments = [tensor.detach().contiguous() for tensor in inputs]
        return tuple(_call_runtime("run", self._method.execute, arguments))

    def kernels(self) -> tuple[Kernel, ...]:
        """Return the XNNPACK nodes of all delegated subgraphs in order of execution, read back from `buffer`.

        What is left to the portable runtime is in `delegation` only.

        Raises:
            LoweringError: `buffer` cannot be decoded.
            MissingDependencyError: ExecuTorch is not installed.
        """
        if self._kernels is None:
            from quantizer_sdk.backends.xnnpack.payload import decode_kernels

            self._kernels = decode_kernels(self.buffer)
        return self._kernels

    def delegation(self) -> Delegation:
        """Return what XNNPACK took and what it left to the portable runtime."""
        return self._delegation

    def save(self, path: str | Path) -> None:
        """Write `buffer` to a file, by custom named *.pte; any ExecuTorch runtime with XNNPACK loads it."""
        Path(path).write_bytes(self.buffer)

    @property
    def size(self) -> int:
        """The program's size in bytes, weights included."""
        return len(self.buffer)

    def _load(self) -> None:
        """Load the program and its method, which is where XNNPACK creates its operators."""
        runtime = _call_runtime("be imported", _runtime)
        self._program = _call_runtime("load the program", runtime.load_program, self.buffer)
        self._method = _call_runtime("load the program", self._program.load_method, "forward")


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Guard imports of ExecuTorch: quiet, and a failed one names the extra to install.

    Raises:
        MissingDependencyError: An import inside the block failed.
    """
    try:
        with quiet():
            yield
    except ImportError as e:
        raise MissingDependencyError(
            f'the XNNPACK backend needs ExecuTorch: pip install "quantizer-sdk[xnnpack]" (importing it failed: {e})',
        ) from e


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep deprecation warnings and ExecuTorch's and torchao's log below ERROR off the console; restore all after.

    ExecuTorch logs on the root logger and calls `logging.basicConfig`, which would leave a handler on the caller's
    root logger; while the block runs, the root logger has the handler that Python falls back to anyway, so that
    neither adds one. Logging settings are the process's own: other threads see them too.
    """
    root = logging.getLogger()
    fallback = logging.lastResort if not root.handlers else None
    noisy = [logging.getLogger(name) for name in _NOISY_LOGGERS]
    levels = [logger.level for logger in noisy]
    if fallback is not None:
        root.addHandler(fallback)
    root.addFilter(_is_error_or_foreign)
    for logger in noisy:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        for logger, level in zip(noisy, levels, strict=True):
            logger.setLevel(level)
        root.removeFilter(_is_error_or_foreign)
        if fallback is not None:
            root.removeHandler(fallback)


def _is_error_or_foreign(record: logging.LogRecord) -> bool:
    """Whether the root logger should pass on a record: an error, or not logged from within ExecuTorch."""
    return record.levelno >= logging.ERROR or "executorch" not in Path(record.pathname).parts


def _runtime() -> Any:
    """Import ExecuTorch's runtime and return its one instance."""
    with importing():
        from executorch.runtime import Runtime

        return Runtime.get()


def _call_runtime(action: str, call: Callable[..., Any], *arguments: Any) -> Any:
    """Call into the runtime, which explains its failures on stderr only.

    What it printed becomes part of the error; without an error it goes to stderr after the call. Its bindings print
    through `sys.stderr`, which notebooks and pytest replace, and code outside of them to the file descriptor.
    """
    failure: Exception | None = None
    result = None
    if sys.stderr is not None:
        sys.stderr.flush()
    text = io.StringIO()
    with _scratch_file() as sink:
        stderr = os.dup(_STDERR)
        os.dup2(sink.fileno(), _STDERR)
        try:
            with contextlib.redirect_stderr(text):
                result = call(*arguments)
        except (RuntimeError, TypeError, ValueError) as e:
            failure = e
        finally:
            os.dup2(stderr, _STDERR)
            os.close(stderr)
        if sink.tell():  # the descriptors share one file position
            sink.seek(0)
            text.write(sink.read().decode(errors="replace"))
    lines = [line for line in text.getvalue().splitlines() if line and not line.startswith(_CPU_DETECTION)]
    if failure is not None:
        printed = "; ".join(lines) or "nothing"
        raise LoweringError(f"ExecuTorch's runtime cannot {action}: {failure} (it printed: {printed})") from failure
    if lines and sys.stderr is not None:
        sys.stderr.write("\n".join((*lines, "")))
    return result


def _scratch_file() -> IO[bytes]:
    """Open an unnamed file: in memory where the system has that, for it takes 5 µs off every run against 17."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("stderr"), "w+b", buffering=0)
    return tempfile.TemporaryFile(buffering=0)
