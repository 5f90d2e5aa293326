"""Gemms of run-time qparams in software: as a profile says, or as a mutant gets them wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from quantizer_sdk import Profile
from quantizer_sdk.backend import Kernel
from quantizer_sdk.conformance.dynamic_emulator import Operands, operands_of, scaled
from quantizer_sdk.conformance.dynamic_gemms import DynamicGemm, dynamic_gemms
from quantizer_sdk.conformance.mutants.software_program import SoftwareProgram
from quantizer_sdk.errors import LoweringError
from quantizer_sdk.profile import DynamicArithmetic

__all__ = ["DynamicCompute", "DynamicProgram", "OperandChange", "with_arithmetic", "with_operands"]

DynamicCompute = Callable[[GraphModule, DynamicGemm, Tensor, DynamicArithmetic], Tensor]
"""What one kernel does: (the graph, its gemm, the float activation, the profile's arithmetic) -> the float32 result."""

OperandChange = Callable[[Operands, DynamicGemm, Tensor, DynamicArithmetic], Operands]
"""What a wrong kernel makes of its operands."""


def with_operands(change: OperandChange | None = None) -> DynamicCompute:
    """Return kernels that multiply what `change` makes of their operands."""

    def compute(model: GraphModule, gemm: DynamicGemm, x: Tensor, arithmetic: DynamicArithmetic) -> Tensor:
        operands = operands_of(model, gemm, x, arithmetic)
        operands = operands if change is None else change(operands, gemm, x, arithmetic)
        return scaled(gemm, operands, arithmetic).value

    return compute


def with_arithmetic(**changes: Any) -> DynamicCompute:
    """Return kernels of another arithmetic than the profile's."""

    def compute(model: GraphModule, gemm: DynamicGemm, x: Tensor, arithmetic: DynamicArithmetic) -> Tensor:
        wrong = dataclasses.replace(arithmetic, **changes)
        return scaled(gemm, operands_of(model, gemm, x, wrong), wrong).value

    return compute


class DynamicProgram(SoftwareProgram):
    """A converted graph whose gemms of run-time qparams are computed by kernels, and all else in float.

    Args:
        model: The graph.
        profile: The kernels' arithmetic.
        compute: What a kernel does.

    Raises:
        LoweringError: The profile has no such kernels.
    """

    def __init__(self, model: GraphModule, profile: Profile, compute: DynamicCompute) -> None:
        if profile.dynamic is None:
            raise LoweringError(f"profile {profile.name!r} has no kernels that quantize at run time")
        super().__init__(model)
        self.arithmetic = profile.dynamic
        self.compute = compute

    def run(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Run the program and return its outputs."""
        with torch.no_grad():
            found = _Computing(self).run(*inputs)
        return tuple(found) if isinstance(found, Sequence) else (found,)

    def kernels(self) -> tuple[Kernel, ...]:
        """Return for each gemm the conversion of its activation and the gemm."""
        found: list[Kernel] = []
        for gemm in dynamic_gemms(self.model):
            name = "+".join(map(str, gemm.targets))
            found += [
                Kernel(name="convert", inputs=("FP32",), outputs=("QDINT8",), integer=False, conversion=True),
                Kernel(name=name, inputs=("QDINT8", "QINT8"), outputs=("FP32",), integer=False, conversion=False),
            ]
        return tuple(found)


class _Computing(Interpreter):
    """Runs a graph with kernels in the place of its gemms."""

    def __init__(self, program: DynamicProgram) -> None:
        super().__init__(program.model, garbage_collect_values=False)
        self._program = program
        self._gemms = {gemm.output: gemm for gemm in dynamic_gemms(program.model)}

    def run_node(self, n: Node) -> Any:
        gemm = self._gemms.get(n)
        if gemm is None:
            return super().run_node(n)
        source = gemm.quantize.args[0]
        assert isinstance(source, Node)
        return self._program.compute(self._program.model, gemm, self.env[source], self._program.arithmetic)
