"""The pictures of a comparison."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from quantizer_sdk.debug.figure import new_figure
from quantizer_sdk.debug.spread import Spread
from quantizer_sdk.decibels import in_db
from quantizer_sdk.errors import ComparisonError

if TYPE_CHECKING:
    from quantizer_sdk.debug.comparison import Comparison, LayerError

__all__ = ["plot_channels", "plot_histograms", "plot_layers"]

_BUILT_UP, _OWN, _CLIP = "#9dbfcd", "#d1603d", "#b03a2e"
_INCHES = 0.19  # a layer
_COLUMNS = 3
_CELLS = 256
_LONGEST = 48
_EXACT = 110.0  # dB, more than which is float arithmetic in another order

Target = str | Path | IO[bytes]


def plot_layers(comparison: Comparison, layers: Sequence[LayerError], path: Target) -> None:
    """Draw two bars a layer, from the input down to the outputs; longer is better."""
    figure = new_figure(9.5, 1.9 + _INCHES * len(layers))
    axes = figure.subplots()
    ratios = [it for layer in layers for it in (layer.sqnr, layer.own_sqnr) if it is not None and it < _EXACT]
    top = max(ratios, default=60.0)
    places = range(len(layers))
    built_up = [_length(layer.sqnr, top) for layer in layers]
    axes.barh(places, built_up, height=0.82, color=_BUILT_UP, label="noise built up since the input", zorder=2)
    if any(layer.own_sqnr is not None for layer in layers):
        own = [
            0.0 if layer.own_sqnr is None or layer.own_sqnr > top else _length(layer.own_sqnr, top) for layer in layers
        ]
        label = "noise of this layer alone (no bar: none)"
        axes.barh(places, own, height=0.34, color=_OWN, label=label, zorder=3)
    worst = {layer.node: layer.blame for layer in comparison.ranked()[:3] if layer.blame}
    for place, (layer, tick) in enumerate(
        zip(layers, axes.set_yticks(places, [_label(it) for it in layers], fontsize=7.5), strict=True)
    ):
        if layer.node in worst:
            tick.label1.set_color(_CLIP)
            end = max(built_up[place], min(layer.own_sqnr or 0.0, top))
            words = f"{100 * worst[layer.node]:.0f} % of the blame"
            axes.text(end + 0.01 * top, place, words, color=_CLIP, fontsize=8, va="center", zorder=4)
    axes.set_ylim(len(layers) - 0.4, -0.6)
    axes.set_xlim(0, top * 1.2)
    axes.tick_params(axis="x", labeltop=True, top=True)
    axes.set_xlabel("signal to noise against the float model, dB (longer is better)")
    axes.grid(axis="x", color="#dddddd", zorder=0)
    axes.spines["right"].set_visible(False)
    ends = "".join(f"; {it.name}: {in_db(it.sqnr)}" for it in comparison.outputs[:3])
    figure.suptitle(f"Noise layer by layer, from the input down{ends}", fontsize=11)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    _save(figure, path)


def _length(ratio: float, top: float) -> float:
    """Return how long to draw a ratio in dB: what is exact reaches over all others."""
    if math.isnan(ratio):
        return 0.0
    return min(max(ratio, 0.0), 1.05 * top)


def plot_histograms(layers: Sequence[LayerError], path: Target) -> None:
    """Draw one small histogram a layer, counts on a logarithmic scale; what the codes cannot represent is shaded."""
    spreads = _spreads(layers)
    rows = max(1, math.ceil(len(layers) / _COLUMNS))
    figure = new_figure(10.5, 0.8 + 2.0 * rows)
    grid = figure.subplots(rows, _COLUMNS, squeeze=False)
    for place, axes in enumerate(grid.flat):
        if place >= len(layers):
            axes.set_axis_off()
            continue
        layer, spread = layers[place], spreads[place]
        width = (spread.high - spread.low) / max(len(spread.counts), 1)
        edges = [spread.low + index * width for index in range(len(spread.counts) + 1)]
        axes.stairs([max(count, 0.5) for count in spread.counts], edges, baseline=0.5, fill=True, color="#1f6f8b")
        axes.set_yscale("log")
        axes.set_ylim(bottom=0.5)
        low, high = spread.low, spread.high
        words = "no fixed range"
        if spread.clip_low is not None and spread.clip_high is not None:
            low, high = min(low, spread.clip_low), max(high, spread.clip_high)
            for end in (spread.clip_low, spread.clip_high):
                axes.axvline(end, color=_CLIP, linewidth=1.2)
            words = (
                f"range {spread.clip_low:.3g} to {spread.clip_high:.3g}, {100 * (spread.clipped or 0):.2g} % clipped"
            )
        room = 0.03 * (high - low) or 1.0
        low, high = low - room, high + room
        if spread.clip_low is not None and spread.clip_high is not None:
            axes.axvspan(low, spread.clip_low, color=_CLIP, alpha=0.12, linewidth=0)
            axes.axvspan(spread.clip_high, high, color=_CLIP, alpha=0.12, linewidth=0)
        axes.set_xlim(low, high)
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_title(_label(layer), fontsize=8, loc="left")
        own = "" if layer.own_sqnr is None else f"; own {in_db(layer.own_sqnr)}"
        axes.set_xlabel(f"{words}{own}", fontsize=7.5)
    figure.suptitle("Values of the float model, and the range of the codes (between the red lines)", fontsize=11)
    _save(figure, path)


def plot_channels(layers: Sequence[LayerError], path: Target) -> None:
    """Draw one row a layer: the largest value of each channel as a share of the layer's, on a logarithmic scale."""
    import numpy as np

    spreads = _spreads(layers)
    rows = [_peaks(spread) for spread in spreads]
    widest = min(max((len(row) for row in rows), default=1), _CELLS)
    image = np.full((max(len(rows), 1), widest), np.nan)
    for place, row in enumerate(rows):
        # A layer with fewer channels than there are columns fills them all, each channel some of them.
        cells = np.array([max(row[first:last]) for first, last in _cuts(len(row), widest)])
        image[place] = np.where(cells > 0, np.log2(np.maximum(cells, 2.0**-10)), np.nan)
    figure = new_figure(10.5, 1.8 + 0.26 * len(layers))
    axes = figure.subplots()
    axes.set_facecolor("#dddddd")
    drawn = axes.imshow(image, aspect="auto", cmap="viridis", vmin=-8, vmax=0, interpolation="nearest")
    axes.set_yticks(
        range(len(layers)), [f"{_label(it)} ({len(row)})" for it, row in zip(layers, rows, strict=True)], fontsize=7.5
    )
    axes.set_xticks([])
    axes.set_xlabel("channels, from the first to the last (their number in brackets)", fontsize=8)
    bar = figure.colorbar(drawn, ax=axes, pad=0.01, ticks=[0, -2, -4, -6, -8])
    bar.ax.set_yticklabels(["all", "1/4", "1/16", "1/64", "1/256"], fontsize=7.5)
    bar.set_label("of the layer's range", fontsize=8)
    figure.suptitle(
        "How much of the layer's range each channel uses (dark: few codes are left for it; grey: always 0)", fontsize=11
    )
    _save(figure, path)


def _peaks(spread: Spread) -> list[float]:
    """Return the largest magnitude of each channel, as a share of the largest of all."""
    peaks = [max(abs(low), abs(high)) for low, high in zip(spread.channel_low, spread.channel_high, strict=True)]
    most = max(peaks, default=0.0)
    return [peak / most if most else 0.0 for peak in peaks] or [0.0]


def _cuts(count: int, cells: int) -> list[tuple[int, int]]:
    """Return which items each cell stands for: at least one."""
    starts = [index * count // cells for index in range(cells + 1)]
    return [(first, max(first + 1, last)) for first, last in itertools.pairwise(starts)]


def _spreads(layers: Sequence[LayerError]) -> list[Spread]:
    missing = [layer.node for layer in layers if layer.spread is None]
    if missing:
        message = f"how the values of {missing[0]} lie was not kept; call compare(..., histograms=True)"
        raise ComparisonError(message)
    return [layer.spread for layer in layers if layer.spread is not None]


def _label(layer: LayerError) -> str:
    """Name a layer by its module and node; of a long path the end."""
    text = f"{layer.module}: {layer.node}" if layer.module else layer.node
    return text if len(text) <= _LONGEST else f"…{text[-_LONGEST:]}"


def _save(figure: Any, path: Target) -> None:
    figure.savefig(path)
