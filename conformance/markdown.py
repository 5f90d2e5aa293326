"""A report as Markdown: what fits into a pull request's comment."""

from __future__ import annotations

import re

from quantizer_sdk.conformance.outcome import Status
from quantizer_sdk.conformance.report import Report
from quantizer_sdk.conformance.waivers import waived_groups
from quantizer_sdk.templating import fill

__all__ = ["to_markdown"]

_MOST = 100
"""So many cases of one kind are listed; a comment's length is limited, and JSON holds all."""

_LONGEST = 300
_SPECIAL = re.compile(r"([\\`*_\[\]|~#])")


def to_markdown(report: Report) -> str:
    """Return the verdict, the levels, what fell short, what makes the run fail besides, and the waivers.

    Raises:
        MissingDependencyError: Jinja is not installed.
    """
    short = [outcome for outcome in report.outcomes if outcome.status.falls_short]
    groups = waived_groups(report.outcomes)
    context = {
        "report": report,
        "levels": report.levels(),
        "statuses": [status for status in Status if any(level.counts.get(status) for level in report.levels())],
        "short": short[:_MOST],
        "more_short": max(0, len(short) - _MOST),
        "waived": groups[:_MOST],
        "more_waived": max(0, len(groups) - _MOST),
    }
    return fill("quantizer_sdk.conformance", "report.md.j2", context, {"cell": _cell})


def _cell(text: str) -> str:
    """Return text as it reads, for a cell of a table."""
    line = " ".join(text.split())
    line = line if len(line) <= _LONGEST else f"{line[:_LONGEST]} [...]"
    return _SPECIAL.sub(r"\\\1", line).replace("&", "&amp;").replace("<", "&lt;")
