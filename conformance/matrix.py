"""The outcomes of a report by subject and check: what its matrix shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from quantizer_sdk.conformance.outcome import CHECKS, Outcome, Status, case_check

__all__ = ["SEVERITY", "Matrix", "case_subject", "make_matrix", "worst"]

SEVERITY = (
    Status.FAIL,
    Status.ERROR,
    Status.MISTRUSTED,
    Status.UNKNOWN,
    Status.WAIVED,
    Status.PASS,
    Status.UNSUPPORTED,
)
"""Statuses in the order in which one of them stands for many cases."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """Numbers of cases by subject and check.

    Attributes:
        checks: The checks that have cases, in the order of `CHECKS`.
        rows: By subject, in order of names, the numbers of cases by check and status; checks without cases are missing.
    """

    checks: tuple[str, ...]
    rows: Mapping[str, Mapping[str, Counter[Status]]] = field(hash=False)


def case_subject(id_: str) -> str:
    """Return the subject of a case: "aten.add.Tensor" for "L3.K3/aten.add.Tensor/s8.pt/4d"."""
    return id_.split("/", 2)[1]


def make_matrix(outcomes: Sequence[Outcome]) -> Matrix:
    """Count the outcomes."""
    rows: dict[str, dict[str, Counter[Status]]] = {}
    for outcome in outcomes:
        row = rows.setdefault(case_subject(outcome.id), {})
        row.setdefault(case_check(outcome.id), Counter())[outcome.status] += 1
    found = {check for row in rows.values() for check in row}
    return Matrix(checks=tuple(check for check in CHECKS if check in found), rows=dict(sorted(rows.items())))


def worst(counts: Mapping[Status, int]) -> Status:
    """Return the most severe status that occurs."""
    return next(status for status in SEVERITY if counts.get(status))
