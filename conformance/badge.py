"""A badge that shows the level a backend reached, as SVG."""

from __future__ import annotations

from quantizer_sdk.conformance.report import Report
from quantizer_sdk.templating import fill

__all__ = ["badge_text", "to_badge"]

# Dark enough for white letters: a contrast of 4.5 at least.
_COLORS = {
    None: "#b3261e",
    "L0": "#a5500b",
    "L1": "#8a6100",
    "L2": "#676b10",
    "L3": "#3d7a1f",
    "L4": "#1c7a3c",
    "L5": "#0a7560",
}
_LABEL = "quantconf"
_WHOLE = {"level"}  # selections that leave none of a level's cases out


def badge_text(report: Report) -> str:
    """Return what stands on the badge's right, such as "L3 xnnpack".

    A run of some of the cases says nothing of the level as a whole, and a run with flaws fails: both are told.
    """
    partial = not report.complete or bool(report.selection.keys() - _WHOLE)
    notes = ["partial run"] * partial + ["flaws"] * bool(report.flaws)
    level = report.level or "no level"
    return f"{level} {report.backend}" + (f" ({', '.join(notes)})" if notes else "")


def to_badge(report: Report) -> str:
    """Return the badge as SVG, coloured by level.

    Raises:
        MissingDependencyError: Jinja is not installed.
    """
    text = badge_text(report)
    left, right = (_width(part) for part in (_LABEL, text))
    context = {"label": _LABEL, "text": text, "left": left, "right": right, "color": _COLORS[report.level]}
    return fill("quantizer_sdk.conformance", "badge.svg.j2", context)


def _width(text: str) -> int:
    """Return the room for text with a margin at both sides, at 6.2 px a letter; the SVG fits the letters to it."""
    return round(6.2 * len(text)) + 14
