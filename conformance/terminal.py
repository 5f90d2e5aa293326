"""A report in the terminal: verdict, levels, and the first cases that fell short."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from quantizer_sdk.conformance.outcome import Status, case_check, paragraph_of
from quantizer_sdk.conformance.report import Report

__all__ = ["render"]

_SHOWN = 20


def render(report: Report) -> RenderableType:
    """Return what `rich` prints."""
    parts: list[RenderableType] = [_levels(report)]
    short = [outcome for outcome in report.outcomes if outcome.status.falls_short]
    for outcome in short[:_SHOWN]:
        parts.append(Text(f"{outcome.status.value} {outcome.id}", style="red"))
        parts.append(Text(f"    {outcome.message}"))
        parts.append(Text(f"    specified in {paragraph_of(case_check(outcome.id))}", style="dim"))
    if len(short) > _SHOWN:
        parts.append(Text(f"... and {len(short) - _SHOWN} more"))
    parts += [Text(f"flaw: {flaw}", style="red") for flaw in report.flaws]
    if not report.outcomes:
        parts.append(Text("no case was run, which is a failure", style="red"))
    if not report.complete:
        parts.append(Text("not all cases were run", style="red"))
    if report.runner is None:
        parts.append(Text("no runner: the verdict is capped at L2, for no kernel was seen"))
    words = "passed" if report.passed else "FAILED"
    parts.append(Text(f"{report.verdict}: {words} in {report.seconds:.0f} s", style="bold"))
    return Group(*parts)


def _levels(report: Report) -> Table:
    table = Table(title=f"{report.backend} on {report.runner or 'no runtime'}, seed {report.seed}")
    table.add_column("level")
    seen = [status for status in Status if any(level.counts.get(status) for level in report.levels())]
    for status in seen:
        table.add_column(status.value, justify="right")
    table.add_column("reached")
    for level in report.levels():
        counts = [str(level.counts.get(status, 0)) for status in seen]
        table.add_row(level.name, *counts, "yes" if level.reached else "no")
    return table
