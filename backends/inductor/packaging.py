"""Programs compiled ahead of time: one file that runs without the compiler, made and loaded again."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.fx import GraphModule

from quantizer_sdk import LoweringReport, lowering_report
from quantizer_sdk.backend import Boundary, BoundaryQParams, Delegation, Kernel, copy_without_guards, quiet_logs
from quantizer_sdk.backends.inductor.compiling import Findings, compiling, reporting
from quantizer_sdk.backends.inductor.inputs import InputSpec, checked, describe_inputs
from quantizer_sdk.backends.inductor.kernels import KernelCall, count_integer_products, delegation_of
from quantizer_sdk.backends.inductor.packaged_kernels import decode_packaged_calls
from quantizer_sdk.errors import LoweringError

__all__ = ["PackagedProgram", "load_inductor", "write_package"]

_KEY = "quantizer_sdk"
"""Under which the package's metadata has what its loader needs to know."""
_SUFFIX = ".pt2"


class PackagedProgram:
    """A program in a file. Its weights are packed for the instruction set that it was compiled on.

    Attributes:
        path: The file.
        inputs: What it takes.
        boundary: The qparams of inputs and outputs that are tensors of codes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with reporting(f"load {path}"), quiet_logs("torch"):
            self._runner: Any = torch._inductor.aoti_load_package(os.fspath(path))
            text = self._runner.get_metadata().get(_KEY)
        if text is None:
            raise LoweringError(f"{path} was not written by `InductorProgram.save` or `package_inductor`")
        data = json.loads(text)
        self.inputs = tuple(InputSpec.from_dict(entry) for entry in data["inputs"])
        self.boundary = Boundary(*(tuple(map(_qparams, data[side])) for side in ("codes_in", "codes_out")))
        self._calls: tuple[KernelCall, ...] | None = None

    def run(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Run the program once; inputs, results and errors as for `InductorProgram.run`."""
        arguments = checked(inputs, self.inputs)
        with reporting("run"), torch.no_grad():
            return tuple(self._runner(*arguments))

    def kernels(self) -> tuple[Kernel, ...]:
        """Return the kernels that the generated C++ code in the package calls, in order."""
        return tuple(call.kernel for call in self._decoded())

    def delegation(self) -> Delegation:
        """Return what runs on integers, converts or moves as delegated, and the names of the kernels in float."""
        return delegation_of(self._decoded())

    def _decoded(self) -> tuple[KernelCall, ...]:
        if self._calls is None:
            self._calls = decode_packaged_calls(_sources(self.path))
        return self._calls

    def report(self) -> LoweringReport:
        """Return what the program consists of: it prints well, and has `to_dict`."""
        return lowering_report(self)

    def save(self, path: str | Path) -> None:
        """Copy the package."""
        shutil.copyfile(self.path, path)

    @property
    def size(self) -> int:
        """The file's size in bytes, weights included."""
        return self.path.stat().st_size


def load_inductor(path: str | Path) -> PackagedProgram:
    """Load a package that `InductorProgram.save` or `package_inductor` wrote.

    Raises:
        LoweringError: It is none, or torch cannot load it.
    """
    return PackagedProgram(Path(path))


def write_package(
    model: GraphModule,
    example_inputs: Sequence[torch.Tensor],
    path: str | Path,
    *,
    dynamic_shapes: Any,
    boundary: Boundary,
    autocast: torch.dtype | None,
    at_least: int,
) -> None:
    """Compile a graph in normal form, with flat arguments and results, into a package.

    Args:
        model: The graph; it is left as it is.
        example_inputs: What it takes.
        path: The file; its name ends in .pt2.
        dynamic_shapes: As `torch.export.export` takes it.
        boundary: The qparams of its inputs and outputs.
        autocast: As for `compile_graph`.
        at_least: How many integer products the package must have.

    Raises:
        LoweringError: Inductor cannot compile it, or makes fewer integer products: no file is left then.
    """
    path = Path(path)
    if path.suffix != _SUFFIX:
        raise LoweringError(f"a package's name must end in {_SUFFIX}; got {path.name}")
    with reporting("export the model"), quiet_logs("torch"):
        exported = torch.export.export(copy_without_guards(model), tuple(example_inputs), dynamic_shapes=dynamic_shapes)
    findings = Findings()
    data = {
        "inputs": [spec.to_dict() for spec in describe_inputs(example_inputs, exported)],
        "codes_in": [_plain(qparams) for qparams in boundary.inputs],
        "codes_out": [_plain(qparams) for qparams in boundary.outputs],
    }
    options = {
        "aot_inductor.metadata": {_KEY: json.dumps(data)},
        "aot_inductor.enable_line_tables": False,  # more than a megabyte
    }
    with compiling(findings, autocast=autocast):
        torch._inductor.aoti_compile_and_package(exported, package_path=os.fspath(path), inductor_configs=options)
    made = count_integer_products(tuple(call.kernel for call in decode_packaged_calls(_sources(path))))
    if made < at_least:
        with contextlib.suppress(OSError):
            path.unlink()
        raise LoweringError(f"the package would have {made} integer products; the program has {at_least}")


def _sources(path: Path) -> str:
    """Return the generated C++ code in a package."""
    with zipfile.ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".cpp"))
        return "\n".join(archive.read(name).decode() for name in names)


def _plain(qparams: BoundaryQParams | None) -> list[Any] | None:
    return None if qparams is None else [qparams.scale, qparams.zero_point, str(qparams.dtype).removeprefix("torch.")]


def _qparams(entry: list[Any] | None) -> BoundaryQParams | None:
    return None if entry is None else BoundaryQParams(entry[0], entry[1], getattr(torch, entry[2]))
