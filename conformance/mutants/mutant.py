"""A backend that is wrong on purpose, and the checks that must find out."""

from __future__ import annotations

import enum
import re
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from quantizer_sdk import Backend
from quantizer_sdk.conformance.mutants.healthy import healthy
from quantizer_sdk.conformance.outcome import CHECKS
from quantizer_sdk.errors import InvalidSpecError

__all__ = ["Kind", "Mutant"]

_NAME = re.compile(r"[a-z][a-z0-9_]*")


class Kind(enum.Enum):
    """What is wrong."""

    QUANTIZER = "quantizer"
    ENGINE = "engine"
    KERNEL = "kernel"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """A wrong backend.

    Attributes:
        name: Names it in tests and in the matrix.
        harm: What its user would suffer, in one sentence.
        killers: Each of these checks must find it on one of the cases: the verdict is FAIL, or ERROR where it crashes.
        cases: The scenarios that are enough, as "subject/scheme/data/shape".
        make: Makes it.
        kind: What is wrong with it.
        sound: The right backend that it was made from, which all checks must pass on the same scenarios.
        breaking: While entered, breaks the engine.
        alone: Whether it takes its process with it, so that it needs one of its own.
    """

    name: str
    harm: str
    killers: tuple[str, ...]
    cases: tuple[str, ...]
    make: Callable[[], Backend]
    kind: Kind = Kind.QUANTIZER
    sound: Callable[[], Backend] = healthy
    breaking: Callable[[], AbstractContextManager[None]] = nullcontext
    alone: bool = False

    def __post_init__(self) -> None:
        unknown = [check for check in self.killers if check not in CHECKS]
        if unknown or not self.killers or not self.cases or not _NAME.fullmatch(self.name):
            message = (
                f"mutant {self.name!r}: killers {', '.join(self.killers) or 'none'} on {len(self.cases)} cases; "
                "expected a name of small letters, known checks, and a case at least"
            )
            raise InvalidSpecError(message)
        if not self.harm.endswith(".") or " " not in self.harm:
            raise InvalidSpecError(f"mutant {self.name!r}: harm {self.harm!r}; expected a sentence")
