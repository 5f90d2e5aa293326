"""The suite as pytest tests, one for each case: `pytest --pyargs quantizer_sdk.conformance --backend NAME`.

Cases and verdict are those of `quantizer-sdk conform`. Scenarios run in worker processes of the suite's own, in the
order of the tests; a test waits for its case. `pytest_quantizer_sdk` loads this plugin where the suite is asked for.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from quantizer_sdk import MissingDependencyError, QuantizerError
from quantizer_sdk.conformance.on_demand import OnDemand
from quantizer_sdk.conformance.outcome import CHECKS, Outcome, Status, case_check, paragraph_of
from quantizer_sdk.conformance.report import LEVELS, Report
from quantizer_sdk.conformance.run import Settings
from quantizer_sdk.conformance.suite import Selection
from quantizer_sdk.conformance.waivers import load_waivers

__all__ = [
    "pytest_addoption",
    "pytest_collect_file",
    "pytest_collection",
    "pytest_collection_finish",
    "pytest_runtest_makereport",
    "pytest_sessionfinish",
    "pytest_terminal_summary",
]

_PACKAGE = "quantizer_sdk.conformance"
_SUITE = pytest.StashKey[OnDemand]()
_REPORT = pytest.StashKey[Report]()


class _ShortError(Exception):
    """A case fell short."""

    def __init__(self, outcome: Outcome) -> None:
        check = case_check(outcome.id)
        lines = [
            f"{outcome.status.value} {outcome.id}",
            outcome.message,
            f"{check} states: {CHECKS[check][1]} ({paragraph_of(check)})",
        ]
        if outcome.numbers:
            lines.append(f"figures: {json.dumps(dict(outcome.numbers), sort_keys=True)}")
        super().__init__("\n".join(lines))


class _Case(pytest.Item):
    """One case, named by its id."""

    outcome: Outcome | None = None

    def runtest(self) -> None:
        """Wait for the case's outcome."""
        try:
            self.outcome = self.config.stash[_SUITE].outcome(self.name)
        except MissingDependencyError as e:
            pytest.exit(str(e), returncode=pytest.ExitCode.USAGE_ERROR)
        if self.outcome.status.falls_short:
            raise _ShortError(self.outcome)
        if self.outcome.status is Status.WAIVED:
            pytest.xfail(self.outcome.message)
        if self.outcome.status is Status.UNSUPPORTED:
            pytest.skip(self.outcome.message)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Return what was found; the suite's own code is of no interest."""
        return str(excinfo.value) if isinstance(excinfo.value, _ShortError) else super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, None, str]:
        """Return how the case is headed."""
        return self.path, None, self.name


class _Cases(pytest.File):
    """All cases, those of one scenario together."""

    def collect(self) -> Iterator[_Case]:
        """Yield the cases."""
        for id_ in self.config.stash[_SUITE].ids:
            yield _Case.from_parent(self, name=id_)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of `quantizer-sdk conform`."""
    group = parser.getgroup(_PACKAGE, "the conformance suite")

    def option(name: str, **attributes: Any) -> None:
        group.addoption(f"--{name}", dest=f"conform_{name}", **attributes)

    option("backend", metavar="NAME", help="An installed backend, or package.module:Name of a Quantizer or a Backend.")
    option("runner", metavar="NAME", help="Lend another backend's runner.")
    option("profile", metavar="NAME", help="Lend another backend's profile.")
    option("level", choices=LEVELS, default=LEVELS[-1], help="The highest level to run.")
    option("select", action="append", default=[], metavar="PATTERN", help="Only case ids like this, such as 'L3.K3/*'.")
    option("quick", action="store_true", help="The plainest case of each op.")
    option("seed", type=int, default=0, metavar="N", help="Of all random data.")
    option("jobs", type=_count, default=os.cpu_count() or 1, metavar="N", help="Worker processes.")
    option("waivers", type=Path, metavar="FILE", help="Waiver file (TOML).")


def _count(text: str) -> int:
    """Read a number of processes."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}; expected 1 or more")
    return int(text)


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    """Enumerate the cases, if the suite is asked for.

    Raises:
        pytest.UsageError: There is no such backend, no case, or an option says something else that cannot be.
    """
    config = session.config
    if not (config.option.pyargs and any(str(name).startswith(_PACKAGE) for name in config.args)):
        return
    if config.option.conform_backend is None:
        raise pytest.UsageError("the conformance suite judges a backend; name one: --backend NAME")
    if getattr(config.option, "numprocesses", None) or hasattr(config, "workerinput"):
        raise pytest.UsageError("the conformance suite has worker processes of its own: --jobs N in the place of -n N")
    try:
        waivers = config.option.conform_waivers
        suite = OnDemand(_settings(config), () if waivers is None else load_waivers(waivers))
    except QuantizerError as e:
        raise pytest.UsageError(str(e)) from e
    if not suite.ids:
        raise pytest.UsageError("no case is selected, and a run without cases proves nothing; see --level and --select")
    config.stash[_SUITE] = suite


def _settings(config: pytest.Config) -> Settings:
    option = config.option
    return Settings(
        backend=option.conform_backend,
        runner=option.conform_runner,
        profile=option.conform_profile,
        selection=Selection(
            level=option.conform_level, patterns=tuple(option.conform_select), quick=option.conform_quick
        ),
        seed=option.conform_seed,
        workers=option.conform_jobs,
    )


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Let this file stand for all cases."""
    if _SUITE in parent.config.stash and file_path.samefile(__file__):
        return _Cases.from_parent(parent, path=file_path)
    return None


def pytest_collection_finish(session: pytest.Session) -> None:
    """Tell the suite which cases will be asked for."""
    suite = session.config.stash.get(_SUITE, None)
    if suite is not None:
        suite.start([item.name for item in session.items if isinstance(item, _Case)])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Report how long a case took, which is not how long its test waited."""
    report = yield
    if call.when == "call" and isinstance(item, _Case) and item.outcome is not None:
        report.duration = item.outcome.seconds
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Stop the workers, and let waivers that are wrong fail the run."""
    suite = session.config.stash.get(_SUITE, None)
    if suite is None:
        return
    suite.stop()
    if not session.config.option.collectonly:
        report = session.config.stash[_REPORT] = suite.report()
        if report.flaws and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the levels and the verdict."""
    report = config.stash.get(_REPORT, None)
    if report is None:
        return
    write = terminalreporter.write_line
    terminalreporter.section(f"conformance of {report.backend}, seed {report.seed}")
    for level in report.levels():
        counts = ", ".join(f"{level.counts[status]} {status.value}" for status in Status if level.counts.get(status))
        reached = "" if not report.complete else " reached" if level.reached else " not reached"
        write(f"{level.name}{reached}: {counts}")
    for flaw in report.flaws:
        write(f"flaw: {flaw}", red=True)
    if report.runner is None:
        write("no runner: the verdict is capped at L2, for no kernel was seen")
    if report.complete:
        write(f"{report.verdict}: {'passed' if report.passed else 'FAILED'}", bold=True)
    else:
        write(f"no verdict: {len(report.outcomes)} of {len(config.stash[_SUITE].ids)} cases were run", bold=True)
