"""A lowered program on ONNX Runtime: tensors in and out, failures readable, kernels read back."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from quantizer_sdk.backends.onnxruntime.kernels import decode_kernels, delegation_of
from quantizer_sdk.backends.onnxruntime.onnx_graph import importing
from quantizer_sdk.backends.onnxruntime.saturation import sums_saturate
from quantizer_sdk.backends.onnxruntime.session import OPTIMIZED, SessionSettings, open_session
from quantizer_sdk.errors import LoweringError

if TYPE_CHECKING:
    import numpy as np

    from quantizer_sdk.backend import Delegation, Kernel

__all__ = ["ORTProgram", "load_onnx", "read_model", "recommended", "reporting", "run_onnx", "to_arrays"]


class ORTProgram:
    """An ONNX model and how ONNX Runtime runs it. The session is opened at the first `run`.

    Attributes:
        buffer: The ONNX file's bytes.
        settings: How sessions are set up.
    """

    def __init__(self, buffer: bytes, settings: SessionSettings) -> None:
        self.buffer = buffer
        self.settings = settings
        self._session: Any = None
        self._kernels: tuple[Kernel, ...] | None = None

    def run(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Run the program once.

        Args:
            *inputs: CPU tensors with the shapes and dtypes of the example inputs that the program was lowered with; a
                dynamic size may be any.

        Returns:
            The model's outputs, which own their memory.

        Raises:
            LoweringError: The runtime cannot load the program, or refuses these inputs.
            MissingDependencyError: onnxruntime is not installed.
        """
        if self._session is None:
            self._session = self._open()
        names = [entry.name for entry in self._session.get_inputs()]
        arrays = to_arrays(inputs, len(names))
        with reporting("run"):
            results = self._session.run(None, dict(zip(names, arrays, strict=True)))
        return tuple(torch.from_numpy(result) for result in results)

    def kernels(self) -> tuple[Kernel, ...]:
        """Return the nodes that the runtime executes, in order, read back from its optimized graph.

        Raises:
            LoweringError: The runtime cannot load the program.
            MissingDependencyError: onnxruntime is not installed.
        """
        if self._kernels is None:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder, OPTIMIZED)
                self._open(path)
                self._kernels = decode_kernels(path.read_bytes())
        return self._kernels

    def delegation(self) -> Delegation:
        """Return the nodes that run on integers, or convert, as delegated, and the names of those that run in float."""
        return delegation_of(self.kernels())

    def save(self, path: str | Path) -> None:
        """Write `buffer` to a file, by custom named *.onnx. The settings are none of the file's."""
        Path(path).write_bytes(self.buffer)

    @property
    def size(self) -> int:
        """The program's size in bytes, weights included."""
        return len(self.buffer)

    def _open(self, optimized: Path | None = None) -> Any:
        with importing(), reporting("load the program"):
            return open_session(self.buffer, self.settings, optimized)


def load_onnx(model: str | Path | bytes, settings: SessionSettings | None = None) -> ORTProgram:
    """Return any ONNX model as a program that runs with the recommended session options.

    Args:
        model: The path of a file without external data, or its bytes.
        settings: How the session is set up; None takes the recommended `SessionSettings()`.

    Raises:
        LoweringError: The file cannot be read.
    """
    return ORTProgram(read_model(model), recommended(settings))


def run_onnx(
    model: str | Path | bytes, *inputs: torch.Tensor, settings: SessionSettings | None = None
) -> tuple[torch.Tensor, ...]:
    """Run any ONNX model once, with the recommended session options. `load_onnx` gives what runs many times.

    Args:
        model: The path of a file, or its bytes.
        *inputs: CPU tensors, one an input.
        settings: How the session is set up; None takes the recommended `SessionSettings()`.

    Returns:
        The model's outputs.

    Raises:
        LoweringError: The file cannot be read, the runtime cannot load it, or it refuses these inputs.
        MissingDependencyError: onnxruntime is not installed.
    """
    return load_onnx(model, settings).run(*inputs)


def recommended(settings: SessionSettings | None = None) -> SessionSettings:
    """Return settings with all decided that they leave to the machine; None takes the recommended ones."""
    settings = SessionSettings() if settings is None else settings
    if settings.exact_sums is not None:
        return settings
    with importing():
        return dataclasses.replace(settings, exact_sums=sums_saturate())


def read_model(model: str | Path | bytes) -> bytes:
    """Return the bytes of a model that is given as a path or as they are.

    Raises:
        LoweringError: The file cannot be read.
    """
    if isinstance(model, bytes):
        return model
    try:
        return Path(model).read_bytes()
    except OSError as e:
        raise LoweringError(f"cannot read {model}: {e.strerror}") from e


def to_arrays(inputs: Sequence[torch.Tensor], count: int) -> list[np.ndarray[Any, Any]]:
    """Return tensors as contiguous arrays.

    Raises:
        LoweringError: Their number is not the model's.
    """
    if len(inputs) != count:
        raise LoweringError(f"the program takes {count} inputs; got {len(inputs)}")
    return [tensor.detach().contiguous().numpy() for tensor in inputs]


@contextlib.contextmanager
def reporting(action: str) -> Iterator[None]:
    """Turn what ONNX Runtime raises inside the block into a LoweringError that says at what."""
    try:
        yield
    except ImportError:
        raise
    except Exception as e:  # its errors have no public base class
        reason = textwrap.shorten(str(e), 400, placeholder=" ...") or "no message"
        raise LoweringError(f"ONNX Runtime cannot {action}: {reason}") from e
