"""Wrong backends before the suite: which checks find each of them out, and whether the right ones pass."""

from __future__ import annotations

import functools
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from quantizer_sdk import Backend
from quantizer_sdk.conformance.evaluate import evaluate
from quantizer_sdk.conformance.mutants.healthy import Donor, donor, healthy
from quantizer_sdk.conformance.mutants.mutant import Mutant
from quantizer_sdk.conformance.outcome import CHECKS, Outcome, Status, case_check
from quantizer_sdk.conformance.scenario import Scenario
from quantizer_sdk.conformance.suite import scenarios_of
from quantizer_sdk.conformance.workers import Job, run_scenarios
from quantizer_sdk.errors import InvalidSpecError

__all__ = ["Judgement", "case_of", "judge_mutant", "judge_mutants", "shortfalls"]

_FOUND = frozenset({Status.FAIL, Status.ERROR})
_REPORTED_ONLY = "D4"
_SPAWNED = "quantizer_sdk.conformance.mutants.spawned"


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What the suite found of a mutant.

    Attributes:
        mutant: The mutant.
        outcomes: All that was looked at.
    """

    mutant: Mutant
    outcomes: tuple[Outcome, ...]

    @property
    def caught_by(self) -> tuple[str, ...]:
        """The checks that found it, in the order of the suite."""
        found = {case_check(outcome.id) for outcome in self.outcomes if outcome.status in _FOUND}
        return tuple(check for check in CHECKS if check in found)

    @property
    def survived(self) -> tuple[str, ...]:
        """The checks that should have found it and did not; none for a mutant that is killed."""
        return tuple(check for check in self.mutant.killers if check not in self.caught_by)

    def __str__(self) -> str:
        if self.survived:
            seen = "; ".join(f"{case_check(o.id)} {o.status.value} {o.message}".strip() for o in self.outcomes)
            return f"{self.mutant.name} survives {', '.join(self.survived)}: {self.mutant.harm} Seen: {seen}"
        return f"{self.mutant.name} is killed by {', '.join(self.caught_by)}"


@functools.cache
def _scenarios(_donor: Donor) -> Mapping[str, Scenario]:
    """Return the suite's own scenarios of the healthy backend by subject, scheme, data and shape."""
    return {scenario.case_ids()[0].split("/", 1)[1]: scenario for scenario in scenarios_of(healthy())}


def case_of(name: str) -> Scenario:
    """Return the scenario that the suite enumerates under "subject/scheme/data/shape".

    Raises:
        InvalidSpecError: It enumerates none.
    """
    known = _scenarios(donor())
    names = donor().cases(name)
    found = next((known[other] for other in names if other in known), None)
    if found is None:
        message = f"no scenario {names[0]!r} among the {len(known)} of the healthy backend; see `conform --list`"
        raise InvalidSpecError(message)
    return found


def judge_mutant(
    mutant: Mutant, checks: Collection[str] | None = None, *, seed: int = 0, timeout: float = 15.0
) -> Judgement:
    """Run a mutant's cases.

    Args:
        mutant: The mutant.
        checks: Which checks to look from; None takes all that these cases have, for a mutant `alone` those it names.
        seed: Of all random data.
        timeout: Seconds that a scenario may take in a process of its own.

    Raises:
        InvalidSpecError: The suite has no such case.
        MissingDependencyError: The package that runs processes is missing.
    """
    if mutant.alone and checks is None:
        checks = mutant.killers  # where a process dies, every case of its scenario is an ERROR, whatever it looks at
    scenarios = [_looked_at(case_of(name), checks) for name in mutant.cases]
    if mutant.alone:
        job = Job(backend=f"{_SPAWNED}:{mutant.name}", runner=None, profile=None, seed=seed, path=tuple(sys.path))
        results = run_scenarios(scenarios, job, workers=1, timeout=timeout)
        return Judgement(mutant=mutant, outcomes=tuple(o for _scenario, outcomes in results for o in outcomes))
    with mutant.breaking():
        backend = mutant.make()
        outcomes = [o for scenario in scenarios for o in evaluate(scenario, backend, scenario.checks, seed)]
    return Judgement(mutant=mutant, outcomes=tuple(outcomes))


def judge_mutants(
    mutants: Iterable[Mutant], checks: Collection[str] | None = None, *, seed: int = 0
) -> Iterator[Judgement]:
    """Yield what the suite finds of each mutant; see `judge_mutant`."""
    for mutant in mutants:
        yield judge_mutant(mutant, checks, seed=seed)


def shortfalls(
    backend: Backend, case: str, checks: Collection[str] | None = None, *, seed: int = 0
) -> tuple[Outcome, ...]:
    """Return the outcomes of a case that fall short: none, for a backend that is right.

    Raises:
        InvalidSpecError: The suite has no such case, or none of these checks looks at it.
    """
    scenario = _looked_at(case_of(case), checks)
    if not scenario.checks:
        raise InvalidSpecError(f"case {case!r} has none of the checks {', '.join(checks or ())}")
    outcomes = evaluate(scenario, backend, scenario.checks, seed)
    return tuple(outcome for outcome in outcomes if outcome.status.falls_short)


def _looked_at(scenario: Scenario, checks: Collection[str] | None) -> Scenario:
    """Return a scenario with these of its checks; without the one that judges nothing."""
    wanted = tuple(c for c in scenario.checks if c != _REPORTED_ONLY and (checks is None or c in checks))
    return replace(scenario, checks=wanted)
