"""A program that inductor compiled in this process: tensors in and out, kernels read back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.fx import GraphModule

from quantizer_sdk import LoweringReport, lowering_report
from quantizer_sdk.backend import Boundary, BoundaryQParams, Delegation, Kernel
from quantizer_sdk.backends.inductor.compiling import Compiled, reporting
from quantizer_sdk.backends.inductor.gemms import Gemm
from quantizer_sdk.backends.inductor.kernels import decode_kernels, delegation_of
from quantizer_sdk.backends.inductor.packaging import write_package
from quantizer_sdk.errors import LoweringError

__all__ = ["InductorProgram", "checked"]


class InductorProgram:
    """A compiled program. Its weights are packed; those that it was made of are kept beside them for `save`.

    Attributes:
        boundary: The qparams of inputs and outputs that are tensors of codes.
        floats: The products with a quantized weight that compute in float, each with the reason.
    """

    def __init__(
        self,
        compiled: Compiled,
        again: Callable[[Sequence[torch.Tensor]], Compiled],
        model: GraphModule,
        example_inputs: Sequence[torch.Tensor],
        *,
        dynamic_shapes: Any,
        boundary: Boundary,
        gemms: tuple[Gemm, ...],
        autocast: torch.dtype | None,
    ) -> None:
        self.boundary = boundary
        fused = compiled.findings.fused
        left = [gemm for gemm in gemms if gemm.name not in fused]
        self.floats = tuple(gemm.describe(gemm.obstacle or NOT_MATCHED) for gemm in left)
        self._compiled = [compiled]
        self._again = again
        self._model = model
        self._examples = tuple(example_inputs)
        self._dynamic_shapes = dynamic_shapes
        self._autocast = autocast
        self._kernels: tuple[Kernel, ...] | None = None

    def run(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Run the program once.

        Args:
            *inputs: CPU tensors with the shapes and dtypes of the example inputs that the program was lowered with; a
                dynamic size may be any in its range. One that inductor did not compile for compiles again, once.

        Returns:
            The model's outputs.

        Raises:
            LoweringError: These inputs do not fit.
        """
        arguments = checked(inputs, self._examples, self._dynamic_shapes is not None)
        with reporting("run"), torch.no_grad():
            return tuple(self._for(arguments).call(*arguments))

    def _for(self, arguments: Sequence[torch.Tensor]) -> Compiled:
        """Return what was compiled for sizes like these."""
        if self._dynamic_shapes is None:
            return self._compiled[0]
        for compiled in self._compiled:
            if compiled.accepts(arguments):
                return compiled
        compiled = self._again(arguments)
        if not compiled.accepts(arguments):
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in arguments)
            raise LoweringError(f"inputs of shapes {shapes} are outside of the dynamic shapes {self._dynamic_shapes}")
        self._compiled.append(compiled)
        return compiled

    def kernels(self) -> tuple[Kernel, ...]:
        """Return the kernels that the generated code calls, in order."""
        if self._kernels is None:
            self._kernels = decode_kernels(self.source)
        return self._kernels

    def delegation(self) -> Delegation:
        """Return what runs on integers, converts or moves as delegated, and the names of the kernels in float."""
        return delegation_of(self.kernels())

    def report(self) -> LoweringReport:
        """Return what the program consists of: it prints well, and has `to_dict`."""
        return lowering_report(self)

    @property
    def source(self) -> str:
        """The Python code that inductor generated."""
        return self._compiled[0].findings.source

    @property
    def input_qparams(self) -> tuple[BoundaryQParams | None, ...]:
        """Scale, zero point and dtype of each input that takes codes; None for one that takes floats."""
        return self.boundary.inputs

    @property
    def output_qparams(self) -> tuple[BoundaryQParams | None, ...]:
        """Scale, zero point and dtype of each output that gives codes; None for one that gives floats."""
        return self.boundary.outputs

    @property
    def size(self) -> int:
        """The bytes of the generated code and of the constants that it holds."""
        return len(self.source.encode()) + self._compiled[0].constants

    def save(self, path: str | Path) -> None:
        """Compile the program ahead of time into a package, by custom named *.pt2; `load_inductor` loads it.

        It takes longer than lowering did, for C++ code is compiled, and runs without the compiler afterwards.

        Raises:
            LoweringError: Inductor cannot compile the package.
        """
        write_package(self._model, self._examples, path, dynamic_shapes=self._dynamic_shapes, autocast=self._autocast)


NOT_MATCHED = "none of inductor's patterns took it"


def checked(
    inputs: Sequence[torch.Tensor], examples: Sequence[torch.Tensor], dynamic: bool
) -> tuple[torch.Tensor, ...]:
    """Return the tensors in the memory format that was compiled for.

    Raises:
        LoweringError: Their number, dtype or shape is not that of the examples.
    """
    if len(inputs) != len(examples):
        raise LoweringError(f"the program takes {len(examples)} inputs; got {len(inputs)}")
    for place, (tensor, example) in enumerate(zip(inputs, examples, strict=True)):
        same_shape = tensor.dim() == example.dim() if dynamic else tensor.shape == example.shape
        if tensor.dtype != example.dtype or not same_shape:
            found, wanted = (f"{entry.dtype} {tuple(entry.shape)}" for entry in (tensor, example))
            raise LoweringError(f"input {place} is {found}; the program was lowered for {wanted}")
    return tuple(tensor.detach().contiguous() for tensor in inputs)
