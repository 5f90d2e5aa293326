"""ExecuTorch's .pte files: written from converted models, and read back node by node."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.fx import GraphModule

from quantizer_sdk import LoweringReport, lowering_report
from quantizer_sdk.backend import Boundary, Delegation
from quantizer_sdk.backends.executorch.importing import importing
from quantizer_sdk.backends.executorch.program import ExecuTorchProgram
from quantizer_sdk.backends.xnnpack.lowering import lower
from quantizer_sdk.backends.xnnpack.payload import decode_kernels
from quantizer_sdk.errors import LoweringError

__all__ = ["inspect_pte", "save_pte"]


def save_pte(
    model: GraphModule, example_inputs: Sequence[torch.Tensor], path: Path, *, dynamic_shapes: Any = None
) -> LoweringReport:
    """Lower a model to XNNPACK and write it as a .pte file; see `quantizer_sdk.backend.Save`."""
    program = lower(model, example_inputs, dynamic_shapes=dynamic_shapes)
    try:
        program.save(path)
    except OSError as e:
        raise LoweringError(f"cannot write {path}: {e.strerror}") from e
    return program.report()


def inspect_pte(path: Path) -> LoweringReport:
    """Say of a .pte file what XNNPACK's kernels compute of it, and which ops are left to the portable runtime.

    Raises:
        LoweringError: The file cannot be read, or is no program.
        MissingDependencyError: ExecuTorch is not installed.
    """
    try:
        buffer = path.read_bytes()
    except OSError as e:
        raise LoweringError(f"cannot read {path}: {e.strerror}") from e
    return lowering_report(ExecuTorchProgram(buffer, _delegation(buffer, path), decode_kernels, Boundary()))


def _delegation(buffer: bytes, path: Path) -> Delegation:
    """Return how many calls of delegates a program has, and the operators that it calls itself."""
    with importing():
        # Private, for ExecuTorch offers no public reader of .pte files.
        from executorch.exir._serialize._program import deserialize_pte_binary
        from executorch.exir.schema import DelegateCall, KernelCall
    try:
        plans = deserialize_pte_binary(buffer).program.execution_plan
        calls, left = 0, []
        for plan in plans:
            for instruction in (instruction.instr_args for chain in plan.chains for instruction in chain.instructions):
                calls += isinstance(instruction, DelegateCall)
                if isinstance(instruction, KernelCall):
                    operator = plan.operators[instruction.op_index]
                    left.append(".".join(part for part in (operator.name, operator.overload) if part))
    except Exception as e:  # damaged bytes surface as any error at all
        raise LoweringError(f"{path} is no ExecuTorch program: {type(e).__name__}: {e}") from e
    return Delegation(subgraphs=calls, delegated=0, non_delegated=tuple(left))
