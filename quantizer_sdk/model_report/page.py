"""The report of a model as one HTML file that needs nothing else: no server, no network, no second file."""

from __future__ import annotations

import json

from quantizer_sdk.decibels import in_db
from quantizer_sdk.model_report.content import Content
from quantizer_sdk.templating import asset, fill, page_style, script_hash

__all__ = ["to_html"]

_PACKAGE = "quantizer_sdk.model_report"
_FULL_BAR = 60.0
"""A signal to noise ratio in dB that fills its bar: more is not seen by any metric."""
_MOST_ROWS = 6


def to_html(report: Content) -> str:
    """Return the page: summary, advice, coverage, the graph with its layers' noise, plots.

    Raises:
        MissingDependencyError: Jinja is not installed.
    """
    script = asset(_PACKAGE, "model.js")
    details = [[list(pair) for pair in row.details] for row in report.rows]
    context = {
        "report": report,
        "script": script,
        "script_hash": script_hash(script),
        "style": page_style() + asset(_PACKAGE, "model.css"),
        "data": json.dumps(details, ensure_ascii=False).replace("<", "\\u003c"),
        "most_rows": _MOST_ROWS,
    }
    return fill(_PACKAGE, "model.html.j2", context, {"bar": _bar, "db": in_db, "percent": _percent})


def _bar(sqnr: float) -> str:
    """Return how much of its bar a ratio fills, in percent."""
    return f"{100 * min(max(sqnr, 0.0), _FULL_BAR) / _FULL_BAR:.0f}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share >= 0.001 else "none" if share == 0 else "< 0.1 %"
