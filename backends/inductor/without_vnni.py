"""Programs as on a CPU without VNNI, whose products of bytes may saturate: oneDNN of another process is told so."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.fx import GraphModule

from quantizer_sdk.backend import Delegation, Kernel, copy_without_guards, quiet_logs, strip_boundary
from quantizer_sdk.backends.inductor.compiling import reporting
from quantizer_sdk.backends.inductor.inputs import InputSpec, checked, describe_inputs
from quantizer_sdk.backends.inductor.kernels import decode_calls, decode_kernels, delegation_of
from quantizer_sdk.backends.inductor.server import GENERATED, INPUTS, MODEL, OUTPUTS
from quantizer_sdk.backends.inductor.weaker_process import WEAKER
from quantizer_sdk.errors import LoweringError

__all__ = ["WeakerProgram", "lower_without_vnni"]


class WeakerProgram:
    """A program in a process without VNNI.

    Attributes:
        inputs: What it takes.
    """

    def __init__(self, exported: torch.export.ExportedProgram, takes: tuple[InputSpec, ...]) -> None:
        self.inputs = takes
        self._folder = tempfile.TemporaryDirectory()
        with quiet_logs("torch"):
            torch.export.save(exported, self._path(MODEL))
        self.run_many([])

    def run(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Run the program once; inputs and results as for `InductorProgram.run`.

        Raises:
            LoweringError: These inputs do not fit, or the process fails.
        """
        return self.run_many([inputs])[0]

    def run_many(self, batches: Sequence[Sequence[torch.Tensor]]) -> list[tuple[torch.Tensor, ...]]:
        """Run the program on each of these tuples of inputs, and return the outputs of each run.

        Raises:
            LoweringError: Some inputs do not fit, or the process fails.
        """
        torch.save([checked(inputs, self.inputs) for inputs in batches], self._path(INPUTS))
        WEAKER.ask(Path(self._folder.name))
        results = torch.load(self._path(OUTPUTS), weights_only=True)
        return [tuple(outputs) for outputs in results]

    def kernels(self) -> tuple[Kernel, ...]:
        """Return the kernels that the code generated there calls, in order."""
        return decode_kernels(self._path(GENERATED).read_text())

    def delegation(self) -> Delegation:
        """Return what runs on integers, converts or moves as delegated, and the names of the kernels in float."""
        return delegation_of(decode_calls(self._path(GENERATED).read_text()))

    def save(self, path: str | Path) -> None:
        """Refuse: `InductorProgram.save` writes the package.

        Raises:
            LoweringError: Always.
        """
        raise LoweringError(f"a program of another process cannot be saved to {path}; save that of lower_inductor")

    @property
    def size(self) -> int:
        """The size in bytes of the exported model that it is lowered from."""
        return self._path(MODEL).stat().st_size

    def _path(self, name: str) -> Path:
        return Path(self._folder.name, name)


def lower_without_vnni(
    model: GraphModule,
    example_inputs: Sequence[torch.Tensor],
    *,
    dynamic_shapes: Any = None,
    integer_io: bool = False,
) -> WeakerProgram:
    """Lower to a program that runs as on a CPU without VNNI; arguments as for `lower_inductor`.

    Raises:
        LoweringError: As `lower_inductor`; sizes are dynamic; or the process fails.
    """
    if dynamic_shapes is not None:
        raise LoweringError("without VNNI only static shapes are lowered; got dynamic_shapes")
    inputs = tuple(tensor.detach().contiguous() for tensor in example_inputs)
    if integer_io:
        clone, inputs = strip_boundary(model, inputs)
    else:
        clone = copy_without_guards(model)
    with reporting("export the model"), quiet_logs("torch"):
        exported = torch.export.export(clone, inputs)
    return WeakerProgram(exported, describe_inputs(inputs, None))
