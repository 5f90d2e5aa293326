"""The commands of the conformance suite: `conform`, `conform-verify`, `conform-diff`."""

from __future__ import annotations

import datetime as dt
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from quantizer_sdk.console import readable_errors

if TYPE_CHECKING:
    from typing_extensions import Self

    from quantizer_sdk.conformance.outcome import Outcome
    from quantizer_sdk.conformance.report import Report
    from quantizer_sdk.conformance.run import Settings

__all__ = ["register"]

_Name = Annotated[str, typer.Argument(help="An installed backend, or package.module:Name of a Quantizer or a Backend.")]


def register(app: typer.Typer) -> None:
    """Add the commands to an app."""
    app.command()(conform)
    app.command(name="conform-verify")(conform_verify)
    app.command(name="conform-diff")(conform_diff)


def conform(
    backend: _Name,
    *,
    runner: Annotated[str | None, typer.Option(help="Lend another backend's runner.")] = None,
    profile: Annotated[str | None, typer.Option(help="Lend another backend's profile.")] = None,
    level: Annotated[str, typer.Option(help="The highest level to run, L0 to L5.")] = "L5",
    select: Annotated[list[str] | None, typer.Option(help="Only case ids of this pattern, such as 'L3.K3/*'.")] = None,
    since: Annotated[Path | None, typer.Option(help="Only what fell short in this report.json.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="The plainest case of each op.")] = False,
    list_: Annotated[bool, typer.Option("--list", help="Print the case ids and stop.")] = False,
    jobs: Annotated[int, typer.Option("-j", "--jobs", min=1, help="Worker processes.")] = os.cpu_count() or 1,
    seed: Annotated[int, typer.Option(help="Of all random data.")] = 0,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds for one scenario.")] = 300.0,
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="Stop at the first case that falls short.")] = False,
    waivers: Annotated[Path | None, typer.Option(help="Waiver file (TOML).")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the reports; an interrupted run resumes there.")] = None,
    fuzz: Annotated[int, typer.Option(min=0, help="Instead, run so many random graphs to find defects.")] = 0,
) -> None:
    """Judge a backend's quantizer: what it claims, what the engine makes of it, what the real kernels compute.

    With --fuzz, each failure is made small and written to --out, conformance-fuzz by default, as a script that
    reproduces it with public packages alone.

    Exit status: 0 if every case passes, 1 if something fails, 2 for a wrong argument.
    """
    with readable_errors():
        from quantizer_sdk.conformance.plug import load_backend
        from quantizer_sdk.conformance.report import LEVELS
        from quantizer_sdk.conformance.run import Settings, run_suite
        from quantizer_sdk.conformance.suite import Selection, scenarios_of
        from quantizer_sdk.conformance.write import require_report_packages

        if level not in LEVELS:
            raise typer.BadParameter(f"{level!r}; expected one of {', '.join(LEVELS)}", param_hint="--level")
        ids = None if since is None else _fell_short(since)
        selection = Selection(level=level, patterns=tuple(select or ()), ids=ids, quick=quick)
        if out is not None or fuzz:
            require_report_packages()
        if fuzz:
            settings = Settings(
                backend=backend, runner=runner, profile=profile, seed=seed, workers=jobs, timeout=timeout
            )
            _discover(settings, fuzz, Path("conformance-fuzz") if out is None else out)
            return
        everything = scenarios_of(load_backend(backend, runner=runner, profile=profile))
        if list_:
            for scenario in selection.of(everything):
                typer.echo("\n".join(scenario.case_ids()))
            return
        settings = Settings(
            backend=backend,
            runner=runner,
            profile=profile,
            selection=selection,
            seed=seed,
            workers=jobs,
            timeout=timeout,
            fail_fast=fail_fast,
            journal=None if out is None else out / "journal.jsonl",
        )
        with _Bar(backend) as bar:
            report = run_suite(settings, bar, everything)
        report = _waived(report, waivers, frozenset(id_ for scenario in everything for id_ in scenario.case_ids()))
        _print(report)
        if out is not None:
            _write(report, out)
        if not report.passed:
            raise typer.Exit(1)


def _discover(settings: Settings, count: int, out: Path) -> None:
    """Run random graphs, and print what falls short with the script that shows it; exit status 1 if anything does."""
    from quantizer_sdk.conformance.discovery import discover

    with _Bar(settings.backend) as bar:
        defects = discover(settings, count, out, bar, bar.note)
    for defect in defects:
        outcome, program = defect.outcome, defect.scenario.program
        typer.echo(f"{outcome.status.value} {outcome.id}\n  {outcome.message}")
        calls = ", ".join(str(call.target) for call in program.calls)
        typer.echo(f"  made small: {calls} on {', '.join(map(str, program.inputs))}; found in {len(defect.ids)} cases")
        typer.echo(f"  {defect.script or 'no script: ' + defect.reason}")
    cases = sum(len(defect.ids) for defect in defects)
    typer.echo(f"{count} random graphs, seed {settings.seed}: {cases} failures, {len(defects)} of them different")
    if defects:
        raise typer.Exit(1)


def conform_verify(report: Annotated[Path, typer.Argument(help="A report.json.")]) -> None:
    """Check a report offline: its form, its ids, and that its verdict follows from its cases."""
    with readable_errors():
        from quantizer_sdk.conformance.verify_report import verify_report

        findings = verify_report(report)
        for finding in findings:
            typer.echo(finding)
        if findings:
            raise typer.Exit(1)
        typer.echo(f"{report}: the report is consistent")


def conform_diff(
    before: Annotated[Path, typer.Argument(help="A report.json.")],
    after: Annotated[Path, typer.Argument(help="Another.")],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare two reports: regressions first. Exit status 1 if there are any."""
    with readable_errors():
        from quantizer_sdk.conformance.diff_reports import diff_reports
        from quantizer_sdk.conformance.report_file import read_report

        difference = diff_reports(read_report(before), read_report(after))
        typer.echo(json.dumps(difference.to_dict(), indent=1) if as_json else difference.to_text())
        if difference.worse:
            raise typer.Exit(1)


def _fell_short(path: Path) -> frozenset[str]:
    from quantizer_sdk.conformance.report_file import read_report

    return frozenset(outcome.id for outcome in read_report(path).outcomes if outcome.status.falls_short)


def _waived(report: Report, path: Path | None, known: frozenset[str]) -> Report:
    if path is None:
        return report
    import dataclasses

    from quantizer_sdk.conformance.waivers import apply_waivers, load_waivers

    today = dt.datetime.now(tz=dt.timezone.utc).date()
    outcomes, flaws = apply_waivers(report.outcomes, load_waivers(path), today, known=known)
    return dataclasses.replace(report, outcomes=tuple(outcomes), flaws=(*report.flaws, *flaws))


def _write(report: Report, folder: Path) -> None:
    from quantizer_sdk.conformance.write import write_reports

    names = ", ".join(path.name for path in write_reports(report, folder))
    typer.echo(f"wrote {names} to {folder}")


def _print(report: Report) -> None:
    from quantizer_sdk.conformance.terminal import render

    Console().print(render(report))


class _Bar:
    """Shows cases done, in all, the time left, and how many fell short; on stderr."""

    def __init__(self, name: str) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[short]} short"),
        )
        self._progress = Progress(*columns, console=Console(stderr=True), transient=True, refresh_per_second=4)
        self._task = self._progress.add_task(name, total=None, short=0)
        self._short = 0

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def note(self, text: str) -> None:
        """Say in the name's place what is done now."""
        self._progress.update(self._task, description=text)

    def __call__(self, done: int, total: int, last: Sequence[Outcome]) -> None:
        """Take what came."""
        self._short += sum(outcome.status.falls_short for outcome in last)
        self._progress.update(self._task, completed=done, total=total, short=self._short)
