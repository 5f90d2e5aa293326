"""Error histograms and near-tie plots, drawn with matplotlib as SVG to stand inside an HTML page."""

from __future__ import annotations

import io
import math
import re
from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from quantizer_sdk.conformance.distribution import Distribution
from quantizer_sdk.errors import MissingDependencyError

__all__ = ["Plotter"]

# matplotlib draws in these colours; the SVG then takes the page's own, light or dark.
_INK, _ALL, _DIFFERING = "#000001", "#000002", "#000003"
_PAGE = {_INK: "currentColor", _ALL: "var(--plot-all)", _DIFFERING: "var(--plot-differing)"}

_STYLE = {
    "svg.fonttype": "none",  # letters stay letters, in the page's font
    "svg.hashsalt": "quantizer-sdk",
    "font.size": 9,
    "text.color": _INK,
}
_NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}
_MOST_LABELS = 7
_WIDE = 60  # errors beyond that many are binned


class Plotter:
    """Draws on one figure again and again: making axes costs ten times what drawing on them does.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """

    def __init__(self) -> None:
        try:
            import matplotlib as mpl
            from matplotlib.backends.backend_svg import FigureCanvasSVG
            from matplotlib.figure import Figure
        except ImportError as e:
            raise MissingDependencyError(f'plots need matplotlib, but {e}: pip install "quantizer-sdk[report]"') from e

        self._style = mpl.rc_context
        with self._style(_STYLE):
            self._figure = Figure(figsize=(3.4, 1.7))
            FigureCanvasSVG(self._figure)
            self._axes = self._figure.add_axes((0.12, 0.17, 0.81, 0.78))
            self._axes.set_axis_off()
            self._figure.patch.set_visible(False)
            shapes = [self._axes.stairs([0], [0, 1], fill=True, color=c, clip_on=False) for c in (_ALL, _DIFFERING)]
            self._all, self._differing = shapes
            self._line = self._axes.axvline(0, color=_INK, linewidth=1, linestyle=(0, (4, 3)), clip_on=False)
            self._axes.axhline(0, color=_INK, linewidth=0.8, clip_on=False)
            # Letters of our own: matplotlib's axes measure their labels several times, which takes most of the time.
            below: dict[str, Any] = {"ha": "center", "va": "top", "transform": self._axes.get_xaxis_transform()}
            beside: dict[str, Any] = {"ha": "right", "va": "center", "transform": self._axes.get_yaxis_transform()}
            self._below = [self._axes.text(0, -0.04, "", **below) for _ in range(_MOST_LABELS)]
            self._beside = [self._axes.text(-0.015, 0, "", **beside) for _ in range(_MOST_LABELS)]

    def errors(self, distribution: Distribution) -> str:
        """Draw the number of codes by error; where errors are far apart, in bins of equal width."""
        low, high = min(distribution.errors), max(distribution.errors)
        reach = max(-low, high, 1)
        width = 1 + 2 * (reach // _WIDE)  # odd, so that the middle bin holds 0 in its middle
        side = math.ceil((2 * reach + 1 - width) / (2 * width))
        bins = [0] * (2 * side + 1)
        right = 0
        for error, count in distribution.errors.items():
            bins[(error + width // 2) // width + side] += count
            right += count * (error == 0)
        differing = list(bins)
        differing[side] -= right
        places = sorted({-side, -(side // 2), 0, side // 2, side})
        labels = [(place + side + 0.5, f"{place * width:+d}" if place else "0") for place in places]
        return self._draw(bins, differing, labels, None, f"Errors in codes from {low} to {high}")

    def half_distances(self, distribution: Distribution) -> str:
        """Draw the number of codes by distance to the nearest tie, and how many of them differ.

        Bins are equally wide whatever their edges, as those near 0 matter most; the line stands at δ.
        """
        edges = distribution.edges
        step = math.ceil((len(edges) - 1) / (_MOST_LABELS - 1))
        labels = [(float(place), f"{edges[place]:.3g}") for place in range(0, len(edges), step)]
        delta = distribution.delta
        line = None if delta is None else _place(delta, edges)
        title = f"Distance to the nearest tie in codes; {sum(distribution.mismatches)} codes differ"
        return self._draw(distribution.counts, distribution.mismatches, labels, line, title)

    def _draw(
        self,
        counts: Sequence[int],
        differing: Sequence[int],
        labels: Sequence[tuple[float, str]],
        line: float | None,
        title: str,
    ) -> str:
        """Draw two histograms, the one before the other, on a logarithmic scale that has room for 0."""
        edges = list(range(len(counts) + 1))
        self._all.set_data([_height(count) for count in counts], edges)
        self._differing.set_data([_height(count) for count in differing], edges)
        self._line.set_visible(line is not None)
        self._line.set_xdata([line or 0.0] * 2)
        decades = math.ceil(_height(max(counts, default=0)))
        step = 1 + decades // 5
        ticks = [0, *(10**power for power in range(step if decades > 1 else 0, decades + 1, step))]
        self._axes.set_xlim(0, len(counts))
        self._axes.set_ylim(0, _height(10 ** max(decades, 1)))
        for text in (*self._below, *self._beside):
            text.set_text("")
        for text, (place, label) in zip(self._below, labels, strict=False):
            text.set(x=place, text=label)
        for text, tick in zip(self._beside, ticks, strict=False):
            text.set(y=_height(tick), text=_short(tick))
        buffer = io.StringIO()
        with self._style(_STYLE):
            self._figure.savefig(buffer, format="svg", metadata=_NO_METADATA)
        return _embedded(buffer.getvalue(), title)


def _height(count: int) -> float:
    return math.log10(1 + count)


def _short(count: int) -> str:
    """Return 1, 10, 100, 1k, 10k, ..., 1M, ..."""
    for size, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count // size}{letter}"
    return str(count)


def _place(value: float, edges: Sequence[float]) -> float:
    """Return where a value stands on an axis on which each bin is 1 wide."""
    value = min(max(value, edges[0]), edges[-1])
    bin_ = min(bisect_right(edges, value), len(edges) - 1) - 1
    low, high = list(pairwise(edges))[bin_]
    return bin_ + ((value - low) / (high - low) if high > low else 0.0)


def _embedded(svg: str, title: str) -> str:
    """Return matplotlib's SVG as an element of a page: no ids that would occur twice, no fonts, the page's colours."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<defs>.*?</defs>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', rf'<svg viewBox="\1" role="img" aria-label="{title}">', svg)
    svg = re.sub(r' id="[^"]*"| transform="rotate\(-0 [^"]*"| font-family: [^;]*;', "", svg)
    svg = re.sub("<[^>]*>", lambda tag: re.sub(r"\d+\.\d{2,}", lambda number: f"{float(number[0]):.1f}", tag[0]), svg)
    svg = re.sub("#00000[123]", lambda color: _PAGE[color[0]], svg)
    svg = re.sub(r"\s*\n\s*", " ", svg).replace("> <", "><").replace("<g/>", "")
    return svg.strip()
