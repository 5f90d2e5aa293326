"""A run of the suite: from a backend's name and a selection to a report."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from quantizer_sdk import Backend
from quantizer_sdk.backend import Runner
from quantizer_sdk.conformance.environment import environment_of
from quantizer_sdk.conformance.evaluate import declared
from quantizer_sdk.conformance.journal import Journal
from quantizer_sdk.conformance.outcome import Outcome
from quantizer_sdk.conformance.plug import load_backend
from quantizer_sdk.conformance.report import SUITE, Report
from quantizer_sdk.conformance.scenario import Scenario
from quantizer_sdk.conformance.suite import Selection, scenarios_of
from quantizer_sdk.conformance.workers import Job, run_scenarios
from quantizer_sdk.profile import Profile

__all__ = ["Progress", "Settings", "report_of", "run_suite"]

Progress = Callable[[int, int, Sequence[Outcome]], None]
"""Told (cases done, cases in all, the outcomes that came last)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How to run.

    Attributes:
        backend: As `load_backend` takes it.
        runner: Name of a backend that lends its runner.
        profile: Name of a backend that lends its profile.
        selection: Which cases.
        seed: Of all random data.
        workers: How many processes.
        timeout: Seconds for one scenario.
        fail_fast: Whether to stop at the first case that falls short.
        journal: Where to keep outcomes as they come; None keeps them in memory.
    """

    backend: str
    runner: str | None = None
    profile: str | None = None
    selection: Selection = field(default_factory=Selection)
    seed: int = 0
    workers: int = 2
    timeout: float = 300.0
    fail_fast: bool = False
    journal: Path | None = None


def run_suite(
    settings: Settings, progress: Progress | None = None, everything: Sequence[Scenario] | None = None
) -> Report:
    """Run the suite.

    Args:
        settings: What to run, and how.
        progress: Told how far it is.
        everything: The backend's scenarios, where they have been enumerated already.

    Raises:
        BackendError: There is no such backend.
        MissingDependencyError: A package that the suite or the backend's runtime needs is missing.
    """
    start = time.perf_counter()
    backend = load_backend(settings.backend, runner=settings.runner, profile=settings.profile)
    scenarios = settings.selection.of(scenarios_of(backend) if everything is None else everything)
    total = sum(len(scenario.checks) for scenario in scenarios)
    environment = environment_of(backend)
    journal = _journal(settings, environment)
    done = journal.read() if journal is not None else {}
    done = {id_: outcome for id_, outcome in done.items() if settings.selection.wants(id_)}
    if progress is not None:
        progress(len(done), total, list(done.values()))
    stopped = settings.fail_fast and any(outcome.status.falls_short for outcome in done.values())
    left = [s for s in scenarios if not all(id_ in done for id_ in s.case_ids())]
    if left and not stopped:
        job = Job(
            backend=settings.backend,
            runner=settings.runner,
            profile=settings.profile,
            seed=settings.seed,
            path=tuple(sys.path),
        )
        results = run_scenarios(left, job, workers=settings.workers, timeout=settings.timeout)
        for scenario, found in results:
            profile = backend.part_of(scenario.scheme).profile
            outcomes = [declared(outcome, profile) for outcome in _complete(scenario, found)]
            done |= {outcome.id: outcome for outcome in outcomes}
            if journal is not None:
                journal.write(outcomes)
            if progress is not None:
                progress(len(done), total, outcomes)
            if settings.fail_fast and any(outcome.status.falls_short for outcome in outcomes):
                results.close()
                break
    if journal is not None and len(done) == total:
        journal.remove()
    return report_of(backend, settings, scenarios, done, time.perf_counter() - start)


def _refused_rows(scenarios: Sequence[Scenario], done: Mapping[str, Outcome]) -> tuple[str, ...]:
    """Name the rows all of whose cases the quantizer refused: a table that claims nothing must not pass by that."""
    looked_at: dict[str, bool] = {}
    for scenario in scenarios:
        if scenario.row:
            name = " of ".join(filter(None, (scenario.row, scenario.part)))
            seen = any(done[id_].signature != "refused" for id_ in scenario.case_ids())
            looked_at[name] = looked_at.get(name, False) or seen
    return tuple(
        f"row {name}: the quantizer refuses every case of it, so nothing of it was looked at"
        for name, seen in looked_at.items()
        if not seen
    )


def _complete(scenario: Scenario, outcomes: list[Outcome]) -> list[Outcome]:
    assert {outcome.id for outcome in outcomes} == set(scenario.case_ids())
    return outcomes


def _journal(settings: Settings, environment: dict[str, str]) -> Journal | None:
    if settings.journal is None:
        return None
    header = {
        "suite": SUITE,
        "backend": [settings.backend, settings.runner, settings.profile],
        "seed": settings.seed,
        "selection": settings.selection.words(),
        "environment": environment,
    }
    return Journal(settings.journal, header)


def report_of(
    backend: Backend,
    settings: Settings,
    scenarios: Sequence[Scenario],
    done: Mapping[str, Outcome],
    seconds: float,
) -> Report:
    """Return the report of a run.

    Args:
        backend: What was judged.
        settings: How.
        scenarios: All that the settings select.
        done: The outcomes that there are, by id.
        seconds: How long it took.
    """
    complete = len(done) == sum(len(scenario.checks) for scenario in scenarios)
    whole = complete and not settings.selection.partial
    parts = backend.runtimes()
    return Report(
        backend=backend.name,
        runner=_joined(part.runner for part in parts),
        profile=_joined(part.profile for part in parts),
        environment=environment_of(backend),
        seed=settings.seed,
        selection=settings.selection.words(),
        outcomes=tuple(done[id_] for id_ in sorted(done)),
        complete=complete,
        flaws=_refused_rows(scenarios, done) if whole else (),
        seconds=seconds,
    )


def _joined(named: Iterable[Runner | Profile | None]) -> str | None:
    """Return the names of what the parts of a backend have, or None where they have nothing."""
    return ", ".join(it.name for it in named if it is not None) or None
