"""Random graphs run to find defects; each failure is made small and written as a script that reproduces it."""

from __future__ import annotations

import re
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

from quantizer_sdk import Backend, Row
from quantizer_sdk.conformance.fuzz import fuzz_scenarios
from quantizer_sdk.conformance.outcome import Outcome, Status, case_check
from quantizer_sdk.conformance.plug import load_backend
from quantizer_sdk.conformance.probing import probed_rows
from quantizer_sdk.conformance.run import Progress, Settings
from quantizer_sdk.conformance.scenario import Scenario
from quantizer_sdk.conformance.scheme import plain_schemes
from quantizer_sdk.conformance.shrink import FirstFailing, shrink
from quantizer_sdk.conformance.suite import unanswerable
from quantizer_sdk.conformance.workers import Job, evaluate_here, open_pool, outcomes_of, script_here
from quantizer_sdk.errors import BackendError

__all__ = ["Defect", "discover"]

_Case: TypeAlias = tuple[Scenario, Outcome]


@dataclass(frozen=True, slots=True, kw_only=True)
class Defect:
    """A failure of a random graph, made small.

    Attributes:
        scenario: The small graph, with the one check that fails on it.
        outcome: What the check finds there, under the id of the case that it was found in.
        script: The script that reproduces it; None where it could not be written.
        reason: Why not; empty where it was.
        ids: All cases whose failure came to the same small graph.
    """

    scenario: Scenario
    outcome: Outcome
    script: Path | None
    reason: str
    ids: tuple[str, ...]


def discover(
    settings: Settings,
    count: int,
    out: Path,
    progress: Progress | None = None,
    note: Callable[[str], None] | None = None,
) -> tuple[Defect, ...]:
    """Run random graphs of a backend's ops; write a script for each failure.

    A case that FAILs or ends in an ERROR is a failure; where a graph has none of these, so is its first UNKNOWN.

    Args:
        settings: As `run_suite` takes them; `selection`, `fail_fast` and `journal` have no meaning here.
        count: How many graphs.
        out: The folder of the scripts; made if there is a failure.
        progress: Told how far the graphs are.
        note: Told what is being made small.

    Raises:
        BackendError: There is no such backend, or the suite knows none of its ops.
        MissingDependencyError: A package that the suite or the backend's runtime needs is missing.
    """
    backend = load_backend(settings.backend, runner=settings.runner, profile=settings.profile)
    scenarios = _scenarios(backend, settings.seed, count)
    job = Job(
        backend=settings.backend,
        runner=settings.runner,
        profile=settings.profile,
        seed=settings.seed,
        path=tuple(sys.path),
    )
    total, done = sum(len(scenario.checks) for scenario in scenarios), 0
    found: dict[str, list[_Case]] = {}
    with open_pool(job, settings.workers) as pool:
        reduction = _Reduction(pool, settings.workers, settings.timeout, out)
        for scenario, outcomes in zip(scenarios, reduction.outcomes(scenarios, ahead=4), strict=True):
            done += len(outcomes)
            found.setdefault(scenario.subject, []).extend((scenario, outcome) for outcome in outcomes)
            if progress is not None:
                progress(done, total, outcomes)
        failures = [failure for cases in found.values() for failure in _failures(cases)]
        for place, (scenario, outcome) in enumerate(failures):
            if note is not None:
                note(f"{place + 1} of {len(failures)} failures: {outcome.id}")
            reduction.add(scenario, outcome)
    return tuple(reduction.defects.values())


def _scenarios(backend: Backend, seed: int, count: int) -> tuple[Scenario, ...]:
    """Return `count` random graphs for each part of a backend."""
    scenarios = tuple(scenario for part in backend.runtimes() for scenario in _random_graphs(part, seed, count))
    if not scenarios:
        rows = ", ".join(row.name for part in backend.runtimes() for row in _rows(part))
        raise BackendError(f"no graph can be made of the rows {rows}; expected ops that the suite knows how to call")
    return scenarios


def _rows(part: Backend) -> Sequence[Row]:
    return getattr(part.quantizer(), "rows", None) or probed_rows(part)


def _random_graphs(part: Backend, seed: int, count: int) -> tuple[Scenario, ...]:
    schemes = plain_schemes(part.schemes())
    if not schemes:
        return ()
    unsupported = {} if part.profile is None else part.profile.unsupported
    return fuzz_scenarios(_rows(part), schemes, unanswerable(part), seed=seed, count=count, unsupported=unsupported)


def _failures(cases: Sequence[_Case]) -> Iterator[_Case]:
    """Yield what fails of one graph's cases."""
    wrong = [case for case in cases if case[1].status in {Status.FAIL, Status.ERROR}]
    unknown = (case for case in cases if case[1].status is Status.UNKNOWN)
    yield from wrong or islice(unknown, 1)


def _kind(outcome: Outcome) -> tuple[str, Status, str]:
    """Return what two outcomes have in common that come from one defect; what a compiler says is part of it."""
    words = re.sub(r"[^A-Za-z: ]+", "", outcome.message)[:120] if outcome.signature == "lowering" else ""
    return case_check(outcome.id), outcome.status, outcome.signature + words


class _Reduction:
    """Makes failures small on worker processes, and keeps those that differ.

    Args:
        pool: The processes.
        workers: How many.
        timeout: Seconds for one scenario.
        out: The folder of the scripts.
    """

    def __init__(self, pool: Any, workers: int, timeout: float, out: Path) -> None:
        self.defects: dict[object, Defect] = {}
        self._pool = pool
        self._workers = workers
        self._timeout = timeout
        self._out = out

    def add(self, scenario: Scenario, outcome: Outcome) -> None:
        """Make a failure small, and write its script if there is none like it."""
        kind = _kind(outcome)
        small = shrink(replace(scenario, checks=(case_check(outcome.id),)), self._first_failing(kind))
        key = (kind, small.program, small.scheme, small.data)
        known = self.defects.get(key)
        if known is not None:
            self.defects[key] = replace(known, ids=(*known.ids, outcome.id))
            return
        ((found,),) = self.outcomes([small])
        if _kind(found) == kind:  # else it comes and goes, and what was found first is all that is known
            outcome = replace(found, id=outcome.id)
        script, reason = self._script(small, outcome)
        self.defects[key] = Defect(scenario=small, outcome=outcome, script=script, reason=reason, ids=(outcome.id,))

    def _first_failing(self, kind: tuple[str, Status, str]) -> FirstFailing:
        def first_failing(candidates: Sequence[Scenario]) -> int | None:
            found = enumerate(self.outcomes(candidates))
            return next((place for place, outcomes in found if _kind(outcomes[0]) == kind), None)

        return first_failing

    def outcomes(self, scenarios: Sequence[Scenario], *, ahead: int = 1) -> Iterator[list[Outcome]]:
        """Yield what each scenario comes to, in order; so many for each worker are given out ahead."""
        running: deque[tuple[Scenario, Any]] = deque()
        for scenario in scenarios:
            running.append((scenario, self._pool.schedule(evaluate_here, args=(scenario,), timeout=self._timeout)))
            if len(running) == self._workers * ahead:
                yield self._outcome(*running.popleft())
        while running:
            yield self._outcome(*running.popleft())

    def _outcome(self, scenario: Scenario, future: Any) -> list[Outcome]:
        return outcomes_of(future.result, scenario, self._timeout)

    def _script(self, scenario: Scenario, outcome: Outcome) -> tuple[Path | None, str]:
        """Write the script, or say why there is none."""
        try:
            text = self._pool.schedule(script_here, args=(scenario, outcome), timeout=self._timeout).result()
        except Exception as e:  # noqa: BLE001  # the worker may have died, or hung, of what it should write down
            return None, f"{type(e).__name__}: {e}"
        self._out.mkdir(parents=True, exist_ok=True)
        path = self._out / f"{outcome.id.replace('/', '.')}.py"
        path.write_text(text, encoding="utf-8")
        return path, ""
