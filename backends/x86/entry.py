"""A row of the x86 table with the column that says which runtimes it is for."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch

from quantizer_sdk import Check, Role, Row, Step
from quantizer_sdk.backends.x86.checks import between_codes
from quantizer_sdk.backends.x86.target import Target

__all__ = ["ALL", "ONEDNN", "ORT", "Entry"]

ONEDNN = frozenset({Target.ONEDNN, Target.INDUCTOR})
ORT = frozenset({Target.ONNXRUNTIME})
ALL = ONEDNN | ORT


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line of the table.

    Attributes:
        row: The pattern, as the runtimes compute it that quantize all of its tensors.
        targets: The runtimes that have a kernel for it.
        float_results: Those whose kernel also gives float numbers: there a result is quantized only where a quantized
            op reads it.
        float_biases: Those whose kernel adds a float bias.
        float_addends: Whether oneDNN's kernel adds a float tensor to a product, which is then not quantized.
        between_codes: Whether it pays only if codes come in and go out.
        checks: What only some runtimes refuse, with these.
        opt_in: Those where only a rule that names the op asks for it.
    """

    row: Row
    targets: frozenset[Target] = ALL
    float_results: frozenset[Target] = frozenset()
    float_biases: frozenset[Target] = ONEDNN
    float_addends: bool = False
    between_codes: bool = False
    checks: tuple[tuple[Target, Check], ...] = ()
    opt_in: frozenset[Target] = frozenset()

    def is_for(self, target: Target, asked: frozenset[torch._ops.OpOverload]) -> bool:
        """Whether a runtime has a kernel for it, and its user, who named these ops in rules, wants that used."""
        wanted = target not in self.opt_in or not asked.isdisjoint(self.row.steps[0].targets)
        return target in self.targets and wanted

    def for_target(self, target: Target, *, quantize_results: bool) -> Row:
        """Return the row as one runtime computes it.

        Args:
            target: The runtime.
            quantize_results: Whether results are quantized wherever a spec is given.
        """
        row = self.row
        if target in self.float_results and not quantize_results and not row.share:
            row = dataclasses.replace(row, output=row.output.as_float())
        more = tuple(check for only, check in self.checks if only is target)
        row = dataclasses.replace(row, checks=(*row.checks, *more))
        if self.between_codes and not quantize_results:
            row = dataclasses.replace(row, checks=(*row.checks, between_codes))
        if self.float_addends and not quantize_results:
            gemm, added, *rest = row.steps
            row = dataclasses.replace(row, steps=(gemm, _with_float(added, Role.ACT), *rest))
        if target in self.float_biases:
            row = dataclasses.replace(row, steps=tuple(_with_float(step, Role.BIAS) for step in row.steps))
        return row


def _with_float(step: Step, role: Role) -> Step:
    """Return a step whose operands of a role stay float."""
    operands = tuple(operand.as_float() if operand.role is role else operand for operand in step.operands)
    return dataclasses.replace(step, operands=operands)
