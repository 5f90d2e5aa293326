"""A program that inductor compiled in this process: tensors in and out, kernels read back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.fx import GraphModule

from quantizer_sdk import LoweringReport, lowering_report
from quantizer_sdk.backend import Boundary, BoundaryQParams, Delegation, Kernel, source_line
from quantizer_sdk.backends.inductor.compiling import Compiled, reporting
from quantizer_sdk.backends.inductor.gemms import Gemm
from quantizer_sdk.backends.inductor.inputs import InputSpec, checked
from quantizer_sdk.backends.inductor.kernels import KernelCall, count_integer_products, decode_calls, delegation_of
from quantizer_sdk.backends.inductor.packaging import write_package

__all__ = ["NOT_MATCHED", "InductorProgram"]

NOT_MATCHED = "none of inductor's patterns took it"
"""Why a product computes in float that has no obstacle that we know of."""


class InductorProgram:
    """A compiled program. Its weights are packed; those that it was made of are kept beside them for `save`.

    Attributes:
        inputs: What it takes.
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
        takes: tuple[InputSpec, ...],
        boundary: Boundary,
        gemms: tuple[Gemm, ...],
        autocast: torch.dtype | None,
    ) -> None:
        self.inputs = takes
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
        self._lines = {node.name: source_line(node) for node in model.graph.nodes}
        self._calls: tuple[KernelCall, ...] | None = None

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
        arguments = checked(inputs, self.inputs)
        with reporting("run"), torch.no_grad():
            return tuple(self._for(arguments).call(*arguments))

    def _for(self, arguments: Sequence[torch.Tensor]) -> Compiled:
        """Return what was compiled for sizes like these."""
        if self._dynamic_shapes is None:
            return self._compiled[0]
        for compiled in self._compiled:
            if compiled.accepts(arguments):
                return compiled
        self._compiled.append(self._again(arguments))
        return self._compiled[-1]

    def kernels(self) -> tuple[Kernel, ...]:
        """Return the kernels that the generated code calls, in order."""
        return tuple(call.kernel for call in self._decoded())

    def delegation(self) -> Delegation:
        """Return what runs on integers, converts or moves as delegated, and the names of the kernels in float."""
        return delegation_of(self._decoded(), self._lines)

    def _decoded(self) -> tuple[KernelCall, ...]:
        if self._calls is None:
            self._calls = decode_calls(self.source)
        return self._calls

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
        write_package(
            self._model,
            self._examples,
            path,
            dynamic_shapes=self._dynamic_shapes,
            boundary=self.boundary,
            autocast=self._autocast,
            at_least=count_integer_products(self.kernels()),
        )
