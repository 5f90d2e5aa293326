"""A lowered program on ExecuTorch's own runtime: outputs that last, failures readable."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantizer_sdk import LoweringReport, lowering_report
from quantizer_sdk.backend import captured_stderr
from quantizer_sdk.backends.executorch.importing import importing
from quantizer_sdk.errors import LoweringError

if TYPE_CHECKING:
    import torch

    from quantizer_sdk.backend import Boundary, BoundaryQParams, Delegation, Kernel

__all__ = ["ExecuTorchProgram"]

# Printed once by the CPU detection library on any machine that is no phone; says nothing about the program.
_CPU_DETECTION = "[cpuinfo_utils.cpp:"
_FAILED_NODE = re.compile(r"Failed to create (?P<name>.+?) node (?P<id>\d+),? with code: (?P<code>\w+)")


class ExecuTorchProgram:
    """A program in ExecuTorch's .pte format whose delegated parts run on a delegate's kernels.

    It is loaded at the first `run`. While the runtime loads or runs, the process's stderr is held back to be put into
    the error message, so two threads must not run programs at the same time.

    Attributes:
        buffer: The .pte file's bytes.
        boundary: The qparams of inputs and outputs that are tensors of codes.
    """

    def __init__(
        self,
        buffer: bytes,
        delegation: Delegation,
        decode_kernels: Callable[[bytes], tuple[Kernel, ...]],
        boundary: Boundary,
    ) -> None:
        self.buffer = buffer
        self.boundary = boundary
        self._delegation = delegation
        self._decode_kernels = decode_kernels
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
        """Return the delegate's nodes of all delegated subgraphs in order of execution, read back from `buffer`.

        What is left to the portable runtime is in `delegation` only.

        Raises:
            LoweringError: `buffer` cannot be decoded.
            MissingDependencyError: ExecuTorch is not installed.
        """
        if self._kernels is None:
            self._kernels = self._decode_kernels(self.buffer)
        return self._kernels

    def delegation(self) -> Delegation:
        """Return what the delegate took and what it left to the portable runtime."""
        return self._delegation

    def report(self) -> LoweringReport:
        """Return what the program consists of: it prints well, and has `to_dict`.

        Raises:
            LoweringError: `buffer` cannot be decoded.
            MissingDependencyError: ExecuTorch is not installed.
        """
        return lowering_report(self)

    @property
    def input_qparams(self) -> tuple[BoundaryQParams | None, ...]:
        """Scale, zero point and dtype of each input that takes codes; None for one that takes floats."""
        return self.boundary.inputs

    @property
    def output_qparams(self) -> tuple[BoundaryQParams | None, ...]:
        """Scale, zero point and dtype of each output that gives codes; None for one that gives floats."""
        return self.boundary.outputs

    def save(self, path: str | Path) -> None:
        """Write `buffer` to a file, by custom named *.pte; any ExecuTorch runtime with the delegate loads it."""
        Path(path).write_bytes(self.buffer)

    @property
    def size(self) -> int:
        """The program's size in bytes, weights included."""
        return len(self.buffer)

    def _load(self) -> None:
        """Load the program and its method, which is where the delegate creates its operators."""
        runtime = _call_runtime("be imported", _runtime)
        self._program = _call_runtime("load the program", runtime.load_program, self.buffer)
        self._method = _call_runtime("load the program", self._program.load_method, "forward")


def _runtime() -> Any:
    """Import ExecuTorch's runtime and return its one instance."""
    with importing():
        from executorch.runtime import Runtime

        return Runtime.get()


def _call_runtime(action: str, call: Callable[..., Any], *arguments: Any) -> Any:
    """Call into the runtime, which explains its failures on stderr only.

    What it printed becomes part of the error; without an error it goes to stderr after the call.
    """
    failure: Exception | None = None
    result = None
    with captured_stderr() as printed:
        try:
            result = call(*arguments)
        except (RuntimeError, TypeError, ValueError) as e:
            failure = e
    lines = [line for line in printed.lines() if not line.startswith(_CPU_DETECTION)]
    if failure is not None:
        words = "; ".join(lines) or "nothing"
        node = _FAILED_NODE.search(words)
        cause = f"its delegate refuses the node {node['name']} with {node['code']}: " if node is not None else ""
        message = f"ExecuTorch's runtime cannot {action}: {cause}{failure} (it printed: {words})"
        raise LoweringError(message) from failure
    if lines and sys.stderr is not None:
        sys.stderr.write("\n".join((*lines, "")))
    return result
