"""What a check found: a status, and for all but a pass its kind and its words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from quantizer_sdk.conformance.outcome import Status

__all__ = ["Finding", "does_not_apply", "failed", "passed", "short"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The result of one check; `Outcome` without its id. See there for the fields."""

    status: Status
    message: str = ""
    signature: str = ""
    numbers: Mapping[str, Any] = field(default_factory=dict, hash=False)


def passed(numbers: Mapping[str, Any] | None = None) -> Finding:
    """Return a pass."""
    return Finding(status=Status.PASS, numbers=numbers or {})


def failed(signature: str, message: str, numbers: Mapping[str, Any] | None = None) -> Finding:
    """Return a failure of this kind."""
    return short(Status.FAIL, signature, message, numbers)


def short(status: Status, signature: str, message: str, numbers: Mapping[str, Any] | None = None) -> Finding:
    """Return a finding of any status but a pass."""
    return Finding(status=status, signature=signature, message=message, numbers=numbers or {})


def does_not_apply(reason: str) -> Finding:
    """Say that what a check looks at is not there: nothing to hold, and so nothing that could pass."""
    return short(Status.UNSUPPORTED, "not applicable", f"does not apply: {reason}")
