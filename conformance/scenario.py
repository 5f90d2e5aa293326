"""Scenarios: one graph under one kind of data, which several checks look at; each of these is a case."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from quantizer_sdk.conformance.outcome import CHECKS
from quantizer_sdk.conformance.program import Program

__all__ = ["Scenario"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One graph, quantized under one configuration, on one kind of data.

    Attributes:
        subject: The chain of ops in question, as ids name it.
        scheme: Which configuration of the backend quantizes it.
        data: What its qparams and data are like; see `quantizer_sdk.conformance.regimes`.
        shape: The form's name, with what is particular to its layout.
        program: The graph; a call that only feeds the subject comes first where the subject needs one.
        length: How many of the last calls are the subject.
        checks: What is looked at.
        channels_last: Whether inputs of rank 4 are laid out channels last.
        exhaustive: Whether the inputs take every code, or pair of codes, once.
        row: The row of the table that the subject's ops are enumerated from; "" for what no single row describes.
    """

    subject: str
    scheme: str
    data: str
    shape: str
    program: Program
    length: int
    checks: tuple[str, ...]
    channels_last: bool = False
    exhaustive: bool = False
    row: str = ""

    @property
    def part(self) -> str:
        """The part of the backend that it is for, which the configuration's name ends with; "" for the whole."""
        return self.scheme.partition("@")[2]

    def case_id(self, check: str) -> str:
        """Return the id of one of its cases."""
        return f"{CHECKS[check][0]}.{check}/{self.subject}/{self.scheme}/{self.data}/{self.shape}"

    def case_ids(self) -> tuple[str, ...]:
        """Return the ids of its cases, in the order of its checks."""
        return tuple(self.case_id(check) for check in self.checks)

    @property
    def targets(self) -> tuple[torch._ops.OpOverload, ...]:
        """The subject's ops."""
        return tuple(call.target for call in self.program.calls[-self.length :])
