"""How much of a model must be quantized, and what happens where less is."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

from quantizer_sdk.errors import CoverageError, RuleError
from quantizer_sdk.provenance import listed
from quantizer_sdk.refusal import CONSTANT, EXCLUDED, FILTERED, UNCOVERED
from quantizer_sdk.report.explanation import Explanation
from quantizer_sdk.report.records import OpRecord

__all__ = ["IGNORE", "Coverage", "CoverageWarning", "as_coverage", "check_coverage"]

_ACTIONS = ("warn", "error", "ignore")
_WANTED = frozenset({EXCLUDED, FILTERED, UNCOVERED, CONSTANT})
_MOST_NAMED = 20


class CoverageWarning(UserWarning):
    """Less of a model is quantized than its user asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """What share of a model must be quantized, 0..1, and what happens if less is.

    Attributes:
        min_ops: Of its ops; those that only move values between quantized points count as quantized.
        min_macs: Of its multiplications, see `OpRecord.macs`.
        min_parameters: Of the elements of its constants.
        action: "warn", "error" or "ignore".
        count_excluded: Whether ops that the user's own rules leave float count too.

    Raises:
        RuleError: A share is outside of 0..1, or the action is another.
    """

    min_ops: float = 0.0
    min_macs: float = 1.0
    min_parameters: float = 0.0
    action: str = "warn"
    count_excluded: bool = False

    def __post_init__(self) -> None:
        for name in ("min_ops", "min_macs", "min_parameters"):
            share = getattr(self, name)
            if not 0 <= share <= 1:
                raise RuleError(f"coverage: {name} is {share}; it is a share, 0 to 1")
        if self.action not in _ACTIONS:
            raise RuleError(f"coverage: action is {self.action!r}; it is one of {', '.join(map(repr, _ACTIONS))}")


IGNORE = Coverage(action="ignore")


def as_coverage(coverage: Coverage | str) -> Coverage:
    """Return a coverage as it is, and the name of an action as one that asks for all multiplications.

    Raises:
        RuleError: It is neither.
    """
    if isinstance(coverage, Coverage):
        return coverage
    if not isinstance(coverage, str):
        raise RuleError(f"coverage takes 'warn', 'error', 'ignore' or a Coverage; got a {type(coverage).__name__}")
    return Coverage(action=coverage)


def check_coverage(explanation: Explanation, coverage: Coverage, stacklevel: int = 1) -> None:
    """Warn, or refuse, where less is quantized than was asked for.

    Args:
        explanation: Of the annotated model.
        coverage: What was asked for.
        stacklevel: As in `warnings.warn`, counted from the caller of this function.

    Raises:
        CoverageError: Less is, and `action` is "error". Lists each float op that counts.
    """
    if coverage.action == "ignore":
        return
    counted = [op for op in explanation.ops if coverage.count_excluded or op.cause not in _WANTED]
    missed = _shortfalls(counted, coverage)
    if not missed:
        return
    left = [op for op in counted if op.state == "float"]
    if "ops" not in missed:
        left = [op for op in left if op.macs or op.parameters]
    message = f"{'; '.join(missed.values())}. Left float: {listed([_words(op) for op in left], _MOST_NAMED)}"
    if coverage.action == "error":
        raise CoverageError(message)
    warnings.warn(message, CoverageWarning, stacklevel=stacklevel + 1)


def _shortfalls(ops: list[OpRecord], coverage: Coverage) -> dict[str, str]:
    """Return, by what it is a share of, how much there is of each share that is too small, and was asked for."""
    amounts: tuple[tuple[str, float, Callable[[OpRecord], int]], ...] = (
        ("ops", coverage.min_ops, lambda _op: 1),
        ("multiplications (MACs)", coverage.min_macs, lambda op: op.macs or 0),
        ("parameters", coverage.min_parameters, lambda op: op.parameters),
    )
    missed = {}
    for name, least, amount in amounts:
        whole = sum(amount(op) for op in ops)
        there = sum(amount(op) for op in ops if op.state != "float")
        if whole and there < least * whole:
            missed[name] = f"{there / whole:.1%} of the model's {name} are quantized, and coverage asks for {least:.1%}"
    return missed


def _words(op: OpRecord) -> str:
    place = f" at {op.source}" if op.source else ""
    return f"{op.node} ({op.op}){place}: {op.reason}"
