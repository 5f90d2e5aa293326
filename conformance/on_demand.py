"""A run of the suite whose outcomes are asked for one by one, as a test runner does."""

from __future__ import annotations

import dataclasses
import datetime as dt
import sys
import time
from collections.abc import Collection, Generator, Sequence

from quantizer_sdk.conformance.outcome import Outcome
from quantizer_sdk.conformance.plug import load_backend
from quantizer_sdk.conformance.report import Report
from quantizer_sdk.conformance.run import Settings, report_of
from quantizer_sdk.conformance.scenario import Scenario
from quantizer_sdk.conformance.suite import Selection, scenarios_of
from quantizer_sdk.conformance.waivers import Waiver, apply_waivers
from quantizer_sdk.conformance.workers import Job, run_scenarios

__all__ = ["OnDemand"]


class OnDemand:
    """The cases of a backend, each run when it is asked for, those after it meanwhile.

    Args:
        settings: As `run_suite` takes them; `journal` and `fail_fast` have no meaning here.
        waivers: What is known to fall short.

    Attributes:
        ids: The ids of all cases that the settings select, those of one scenario together.

    Raises:
        BackendError: There is no such backend.
        MissingDependencyError: A package that the backend's runtime needs is missing.
    """

    def __init__(self, settings: Settings, waivers: Sequence[Waiver] = ()) -> None:
        self._settings = settings
        self._waivers = waivers
        self._backend = load_backend(settings.backend, runner=settings.runner, profile=settings.profile)
        everything = scenarios_of(self._backend)
        self._known = frozenset(id_ for scenario in everything for id_ in scenario.case_ids())
        self._scenarios = settings.selection.of(everything)
        self.ids = tuple(id_ for scenario in self._scenarios for id_ in scenario.case_ids())
        self._results: Generator[tuple[Scenario, list[Outcome]], None, None] | None = None
        self._found: dict[str, Outcome] = {}
        self._begun = 0.0

    def start(self, ids: Collection[str]) -> None:
        """Make ready to run the scenarios of some of the cases, in the order of `ids`; nothing runs before it is asked.

        Args:
            ids: The only cases that will be asked for.
        """
        wanted = Selection(ids=frozenset(ids)).of(self._scenarios)
        job = Job(
            backend=self._settings.backend,
            runner=self._settings.runner,
            profile=self._settings.profile,
            seed=self._settings.seed,
            path=tuple(sys.path),
        )
        self._begun = time.perf_counter()
        self._results = run_scenarios(wanted, job, workers=self._settings.workers, timeout=self._settings.timeout)

    def outcome(self, id_: str) -> Outcome:
        """Return the outcome of a case, waived if a waiver says so; wait until it is there.

        Raises:
            MissingDependencyError: The package that runs the worker processes is missing.
        """
        assert self._results is not None
        while id_ not in self._found:
            _, outcomes = next(self._results)
            self._found |= {outcome.id: outcome for outcome in outcomes}
        (waived,), _ = apply_waivers([self._found[id_]], self._waivers, _today())
        return waived

    def stop(self) -> None:
        """Stop the workers."""
        if self._results is not None:
            self._results.close()

    def report(self) -> Report:
        """Return the report of the cases that were run: `run_suite`'s, if that is all of them."""
        seconds = time.perf_counter() - self._begun
        report = report_of(self._backend, self._settings, self._scenarios, self._found, seconds)
        outcomes, flaws = apply_waivers(report.outcomes, self._waivers, _today(), known=self._known)
        return dataclasses.replace(report, outcomes=tuple(outcomes), flaws=(*report.flaws, *flaws))


def _today() -> dt.date:
    return dt.datetime.now(tz=dt.timezone.utc).date()
