"""A report as one HTML file that needs nothing else: no server, no network, no second file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quantizer_sdk.conformance.distribution import Distribution, distribution_of
from quantizer_sdk.conformance.figures import FIGURES
from quantizer_sdk.conformance.matrix import SEVERITY, case_subject, make_matrix, worst
from quantizer_sdk.conformance.outcome import CHECKS, Outcome, Status, case_level, paragraph_of
from quantizer_sdk.conformance.plots import Plotter
from quantizer_sdk.conformance.report import LEVELS, Report
from quantizer_sdk.conformance.waivers import waived_groups
from quantizer_sdk.templating import asset, fill, page_style, script_hash

__all__ = ["to_html"]

MOST_CASE_PLOTS = 50
"""So many cases that fell short are drawn one by one; the numbers of all are in the page."""

_MEANINGS = {
    Status.PASS: "what the check states holds",
    Status.FAIL: "it does not",
    Status.WAIVED: "it does not, as a waiver with an owner and a date expects",
    Status.UNSUPPORTED: "the backend declares that it cannot do this",
    Status.UNKNOWN: "the suite could not tell",
    Status.MISTRUSTED: "a result that proves nothing: constant, zero, saturated, too few distinct codes",
    Status.ERROR: "the case crashed, hung or could not be run",
}
_SYMBOLS = {
    Status.PASS: "✓",
    Status.FAIL: "✗",
    Status.WAIVED: "~",
    Status.UNSUPPORTED: "∅",
    Status.UNKNOWN: "?",
    Status.MISTRUSTED: "≈",
    Status.ERROR: "!",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plot:
    """Drawings of one distribution.

    Attributes:
        subject: Whose it is.
        level: On which level; "" for a single case.
        case: The place of that case in the report; None for a sum over cases.
        drawings: SVG elements, each with what its horizontal axis shows.
        note: What the sum leaves out.
    """

    subject: str
    level: str
    case: int | None
    drawings: Sequence[tuple[str, str]]
    note: str


def to_html(report: Report) -> str:
    """Return the page: verdict, matrix of subjects and checks, cases with all numbers, plots, waivers, environment.

    Histograms are drawn summed up by subject and level, and one by one for the first 50 cases that fell short.

    Raises:
        MissingDependencyError: Jinja or matplotlib is not installed.
        ReportError: The numbers of a case hold something else than histograms where these belong.
    """
    script = asset("quantizer_sdk.conformance", "report.js")
    levels = {level.name: level for level in report.levels()}
    counts = {status: sum(level.counts.get(status, 0) for level in levels.values()) for status in SEVERITY}
    matrix = make_matrix(report.outcomes)
    plotter = Plotter()
    context = {
        "report": report,
        "script": script,
        "script_hash": script_hash(script),
        "style": page_style() + asset("quantizer_sdk.conformance", "report.css"),
        "level_names": LEVELS,
        "levels": levels,
        "counts": {status: count for status, count in counts.items() if count},
        "matrix": matrix,
        "groups": [(name, sum(CHECKS[check][0] == name for check in matrix.checks)) for name in LEVELS],
        "checks": CHECKS,
        "meanings": _MEANINGS,
        "symbols": _SYMBOLS,
        "figures": FIGURES,
        "waivers": waived_groups(report.outcomes),
        "sums": _sums(report.outcomes, plotter),
        "case_plots": _case_plots(report.outcomes, plotter),
        "most_case_plots": MOST_CASE_PLOTS,
        "data": _data(report),
        "Status": Status,
    }
    filters = {
        "worst": worst,
        "cell": _cell,
        "told": _told,
        "is_url": lambda link: link.startswith(("https://", "http://")),
    }
    return fill("quantizer_sdk.conformance", "report.html.j2", context, filters)


def _cell(counts: Mapping[Status, int]) -> str:
    """Return what stands in a cell of the matrix: the worst status, how many cases have it, and how many there are."""
    status, total = worst(counts), sum(counts.values())
    return f"{_SYMBOLS[status]} {total}" if counts[status] == total else f"{_SYMBOLS[status]} {counts[status]}/{total}"


def _told(counts: Mapping[Status, int]) -> str:
    """Return counts in words, the most severe first: "2 FAIL, 10 PASS"."""
    return ", ".join(f"{counts[status]} {status.value}" for status in SEVERITY if counts.get(status))


def _sums(outcomes: Sequence[Outcome], plotter: Plotter) -> list[_Plot]:
    """Draw what the cases of each subject and level come to together."""
    groups: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault((case_subject(outcome.id), case_level(outcome.id)), []).append(outcome)
    plots = []
    for (subject, level), group in sorted(groups.items()):
        distribution = distribution_of(group)
        if distribution is not None:
            left_out = distribution.otherwise_binned
            note = f"{distribution.cases} cases"
            note += f"; half-distances of {left_out} that are binned otherwise are left out" if left_out else ""
            drawings = _drawings(distribution, plotter)
            plots.append(_Plot(subject=subject, level=level, case=None, drawings=drawings, note=note))
    return plots


def _case_plots(outcomes: Sequence[Outcome], plotter: Plotter) -> list[_Plot]:
    """Draw single cases that fell short."""
    plots: list[_Plot] = []
    for place, outcome in enumerate(outcomes):
        distribution = distribution_of([outcome]) if outcome.status.falls_short else None
        if distribution is not None and len(plots) < MOST_CASE_PLOTS:
            drawings = _drawings(distribution, plotter)
            plots.append(_Plot(subject=case_subject(outcome.id), level="", case=place, drawings=drawings, note=""))
    return plots


def _drawings(distribution: Distribution, plotter: Plotter) -> list[tuple[str, str]]:
    drawings = []
    if distribution.errors:
        drawings.append((plotter.errors(distribution), "actual minus expected code"))
    if distribution.edges:
        drawings.append((plotter.half_distances(distribution), "distance to the nearest tie"))
    return drawings


def _data(report: Report) -> str:
    """Return what the script reads, as JSON that may stand inside of an element: cases as rows, equal edges once."""
    order = list(Status)
    shared: dict[str, int] = {}
    cases = []
    for outcome in report.outcomes:
        numbers = dict(outcome.numbers)
        if "half_distances" in numbers:
            key = json.dumps(numbers["half_distances"]["edges"])
            numbers["half_distances"] = {
                **numbers["half_distances"],
                "edges": shared.setdefault(key, len(shared)),
            }
        row = (outcome.id, order.index(outcome.status), outcome.message, outcome.signature, numbers)
        cases.append([*row, round(outcome.seconds, 3)])
    content: dict[str, Any] = {
        "statuses": [status.value for status in order],
        "symbols": [_SYMBOLS[status] for status in order],
        "severity": [SEVERITY.index(status) for status in order],
        "figures": dict(FIGURES),
        "edges": [json.loads(key) for key in shared],
        "paragraphs": {check: paragraph_of(check) for check in CHECKS},
        "cases": cases,
    }
    return json.dumps(content, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")
