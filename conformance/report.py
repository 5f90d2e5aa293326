"""A report: all outcomes of one run with what they were found on, its verdict by level, and its JSON form."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from quantizer_sdk.conformance.outcome import Outcome, Status, case_level
from quantizer_sdk.errors import InvalidSpecError

__all__ = ["LEVELS", "SUITE", "Level", "Report"]

SUITE = "quantconf-1"
"""The version of the specification in docs/conformance/ that the checks implement."""

LEVELS = ("L0", "L1", "L2", "L3", "L4", "L5")


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One level's cases.

    Attributes:
        name: "L0" to "L5".
        counts: Number of cases by status.
        reached: Whether it has cases, and no case of it or of a level below falls short.
    """

    name: str
    counts: Mapping[Status, int] = field(hash=False)
    reached: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One run of the suite.

    Attributes:
        backend: The backend's name, or the quantizer's dotted name.
        runner: The runtime's name; None caps the verdict at L2.
        profile: The profile's name, if there is one.
        environment: Versions, CPU, instruction sets.
        seed: The seed of all random data.
        selection: What was asked for: "level", "select", "quick", ...; empty for the whole suite.
        outcomes: Sorted by id.
        complete: Whether all cases that the selection names were run.
        flaws: What makes the run fail beside its cases: waivers that are expired, unmatched or passed unexpectedly.
        seconds: Wall-clock time of the run.
        suite: The version of the specification.
    """

    backend: str
    runner: str | None
    profile: str | None
    environment: Mapping[str, str] = field(hash=False)
    seed: int
    selection: Mapping[str, str] = field(hash=False)
    outcomes: tuple[Outcome, ...]
    complete: bool = True
    flaws: tuple[str, ...] = ()
    seconds: float = field(default=0.0, compare=False)
    suite: str = SUITE

    def __post_init__(self) -> None:
        ids = [outcome.id for outcome in self.outcomes]
        repeated = [id_ for id_, count in Counter(ids).items() if count > 1]
        if repeated or ids != sorted(ids):
            found = f"ids that occur twice: {', '.join(repeated[:5])}" if repeated else "outcomes out of order"
            raise InvalidSpecError(f"a report with {found}; expected each case once, sorted by id")

    def levels(self) -> tuple[Level, ...]:
        """Return each level that has cases, lowest first."""
        by_level: dict[str, Counter[Status]] = {}
        for outcome in self.outcomes:
            by_level.setdefault(case_level(outcome.id), Counter())[outcome.status] += 1
        reached, levels = True, []
        for name in LEVELS:
            counts = by_level.get(name)
            reached = reached and counts is not None and not any(status.falls_short for status in counts)
            if counts is not None:
                levels.append(Level(name=name, counts=counts, reached=reached))
        return tuple(levels)

    @property
    def level(self) -> str | None:
        """The highest level reached, such as "L3"; None if not even L0 was, or no level below it was run."""
        reached = [level.name for level in self.levels() if level.reached]
        return reached[-1] if reached else None

    @property
    def verdict(self) -> str:
        """Such as "quantconf-1/L3[xnnpack, avx512_vnni]"; "none" where no level was reached."""
        isa = self.environment.get("isa")
        place = self.backend if isa is None else f"{self.backend}, {isa}"
        return f"{self.suite}/{self.level or 'none'}[{place}]"

    @property
    def passed(self) -> bool:
        """Whether there are cases, all that the selection names were run, none falls short, and no waiver is wrong."""
        short = any(outcome.status.falls_short for outcome in self.outcomes)
        return bool(self.outcomes) and self.complete and not short and not self.flaws

    def to_json(self) -> str:
        """Return the report as JSON; two runs with one seed differ in "seconds" only. See docs/conformance/."""
        return json.dumps(self.to_dict(), indent=1, sort_keys=True, allow_nan=False) + "\n"

    def to_dict(self) -> dict[str, Any]:
        """Return what `to_json` writes."""
        return {
            "suite": self.suite,
            "backend": self.backend,
            "runner": self.runner,
            "profile": self.profile,
            "environment": dict(self.environment),
            "seed": self.seed,
            "selection": dict(self.selection),
            "complete": self.complete,
            "passed": self.passed,
            "verdict": self.verdict,
            "flaws": list(self.flaws),
            "levels": [
                {
                    "level": level.name,
                    "reached": level.reached,
                    "counts": {status.value: level.counts[status] for status in Status if level.counts.get(status)},
                }
                for level in self.levels()
            ],
            "outcomes": [
                {
                    "id": outcome.id,
                    "status": outcome.status.value,
                    "message": outcome.message,
                    "signature": outcome.signature,
                    "numbers": dict(outcome.numbers),
                    "seconds": round(outcome.seconds, 4),
                }
                for outcome in self.outcomes
            ],
            "seconds": round(self.seconds, 3),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Report:
        """Read what `to_dict` gave; what is derived there (verdict, levels, passed) is derived anew.

        Raises:
            InvalidSpecError: The content is no report.
        """
        try:
            outcomes = tuple(
                Outcome(**{**entry, "status": Status(entry["status"])})  # an unknown field is an error too
                for entry in content["outcomes"]
            )
            return cls(
                **{key: content[key] for key in ("backend", "runner", "profile", "environment", "seed", "selection")},
                outcomes=outcomes,
                complete=content["complete"],
                flaws=tuple(content["flaws"]),
                seconds=content["seconds"],
                suite=content["suite"],
            )
        except (KeyError, TypeError, ValueError) as e:
            raise InvalidSpecError(f"no conformance report: {type(e).__name__}: {e}") from e
