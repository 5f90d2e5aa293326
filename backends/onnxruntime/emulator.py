"""Programs on a CPU without VNNI, which valgrind emulates: its processor has AVX2 and nothing later."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.fx import GraphModule

from quantizer_sdk.backend import Delegation, Kernel
from quantizer_sdk.backends.onnxruntime import session
from quantizer_sdk.backends.onnxruntime.emulated_process import EMULATED, VALGRIND
from quantizer_sdk.backends.onnxruntime.kernels import decode_kernels, delegation_of
from quantizer_sdk.backends.onnxruntime.lowering import to_onnx
from quantizer_sdk.backends.onnxruntime.session import SessionSettings, settings_json
from quantizer_sdk.errors import MissingDependencyError

__all__ = ["EmulatedProgram", "lower_without_vnni"]


class EmulatedProgram:
    """An ONNX model that runs in an emulated process, which takes seconds to start and then serves all programs.

    Attributes:
        buffer: The ONNX file's bytes.
        settings: How the session is set up.
    """

    def __init__(self, buffer: bytes, settings: SessionSettings) -> None:
        self.buffer = buffer
        self.settings = settings
        self._kernels: tuple[Kernel, ...] | None = None

    def run(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Run the program once; for several inputs `run_many` is faster.

        Raises:
            LoweringError: The emulated process fails, or takes more than five minutes.
        """
        return self.run_many([inputs])[0]

    def run_many(self, batches: Sequence[Sequence[torch.Tensor]]) -> list[tuple[torch.Tensor, ...]]:
        """Run the program on each of these tuples of inputs, all in one process.

        Args:
            batches: For each run, one tensor an input.

        Returns:
            The outputs of each run, in order.

        Raises:
            LoweringError: The emulated process fails, or takes more than five minutes.
        """
        arrays = {
            f"{run}.{place}": tensor.detach().contiguous().numpy()
            for run, inputs in enumerate(batches)
            for place, tensor in enumerate(inputs)
        }
        arrays[session.COUNTS] = np.array([len(inputs) for inputs in batches], np.int64)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / session.MODEL).write_bytes(self.buffer)
            (folder / session.SETTINGS).write_text(settings_json(self.settings))
            np.savez(folder / session.INPUTS, allow_pickle=False, **arrays)
            EMULATED.ask(folder)
            self._kernels = decode_kernels((folder / session.OPTIMIZED).read_bytes())
            with np.load(folder / session.OUTPUTS) as results:
                return [_outputs(results, run) for run in range(len(batches))]

    def kernels(self) -> tuple[Kernel, ...]:
        """Return the nodes that the runtime executes under the emulator, where it optimizes the graph otherwise.

        Raises:
            LoweringError: The emulated process fails.
        """
        if self._kernels is None:
            self.run_many([])
        assert self._kernels is not None
        return self._kernels

    def delegation(self) -> Delegation:
        """Return the nodes that run on integers, or convert, as delegated, and the names of those that run in float."""
        return delegation_of(self.kernels())

    def save(self, path: str | Path) -> None:
        """Write `buffer` to a file, by custom named *.onnx."""
        Path(path).write_bytes(self.buffer)

    @property
    def size(self) -> int:
        """The program's size in bytes, weights included."""
        return len(self.buffer)


def lower_without_vnni(
    model: GraphModule,
    example_inputs: Sequence[torch.Tensor],
    *,
    dynamic_shapes: Any = None,
    integer_io: bool = False,
    settings: SessionSettings | None = None,
) -> EmulatedProgram:
    """Lower to a program that runs as on a CPU without VNNI; arguments as for `lower`.

    Raises:
        LoweringError: As `lower`.
        MissingDependencyError: valgrind, onnxruntime, onnx or onnx_ir is not installed.
    """
    if shutil.which(VALGRIND) is None:
        message = "running without VNNI needs valgrind, which is no Python package: apt-get install valgrind"
        raise MissingDependencyError(message)
    buffer = to_onnx(model, example_inputs, dynamic_shapes=dynamic_shapes, integer_io=integer_io)
    settings = SessionSettings() if settings is None else settings
    if settings.exact_sums is None:
        settings = dataclasses.replace(settings, exact_sums=True)
    return EmulatedProgram(buffer, settings)


def _outputs(results: Any, run: int) -> tuple[torch.Tensor, ...]:
    places = sorted(int(key.split(".")[1]) for key in results if key.split(".")[0] == str(run))
    return tuple(torch.from_numpy(results[f"{run}.{place}"]) for place in places)
