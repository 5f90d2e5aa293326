"""The demo's picture: the signal to noise ratio at every layer, from the input to the logits."""

from __future__ import annotations

import math
from pathlib import Path

from quantizer_sdk.debug.figure import new_figure
from quantizer_sdk.demo.result import Column, DemoResult, Layer

__all__ = ["plot_layers"]

_COLORS = ("#1f6f8b", "#d1603d", "#6a9f58", "#8a6fb0")
_INCHES_PER_LAYER = 0.17


def plot_layers(result: DemoResult, path: Path) -> None:
    """Draw one bar a layer for the first quantized column and a line of markers for every other one.

    Args:
        result: The figures; columns without layers are not drawn.
        path: The PNG to write.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    columns = [column for column in result.columns if column.layers]
    labels = _labels(columns)
    places = {node: place for place, node in enumerate(labels)}
    figure = new_figure(9, 1.6 + _INCHES_PER_LAYER * len(labels))
    axes = figure.subplots()
    for number, (column, color) in enumerate(zip(columns, _COLORS, strict=False)):
        finite = [layer for layer in column.layers if math.isfinite(layer.sqnr)]
        x, y = [layer.sqnr for layer in finite], [places[layer.node] for layer in finite]
        legend = f"{column.name}: logits at {column.sqnr_graph:.1f} dB"
        if number == 0:
            axes.barh(y, x, height=0.7, color=color, label=legend, zorder=2)
            for layer in column.layers:
                if layer.sqnr == math.inf:
                    axes.text(0.5, places[layer.node], "no noise", color=color, fontsize=8, va="center")
        else:
            axes.plot(x, y, color=color, marker="o", markersize=4, linewidth=1.2, label=legend, zorder=3)
    axes.set_yticks(range(len(labels)), list(labels.values()), fontsize=8)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.tick_params(axis="x", labeltop=True, top=True)
    axes.set_xlabel(
        "SQNR of the q/dq graph's activation against the float model's, dB\n"
        "(higher is better; nothing drawn: not quantized there)"
    )
    axes.grid(axis="x", color="#dddddd", zorder=0)
    axes.spines["right"].set_visible(False)
    figure.suptitle(
        f"{result.model} on {result.backend}: noise built up from the input (top) to each layer", fontsize=11
    )
    axes.legend(loc="lower right", framealpha=0.95)
    figure.savefig(path)


def _labels(columns: list[Column]) -> dict[str, str]:
    """Return what to write beside each layer, by node, in the order of the graph that all columns come from."""
    order: list[str] = []
    labels: dict[str, str] = {}
    for column in columns:
        place = len(order)  # what one column alone has goes before the next layer that another has too
        for layer in reversed(column.layers):
            if layer.node not in labels:
                labels[layer.node] = _label(layer)
                order.insert(place, layer.node)
            place = order.index(layer.node)
    return {node: labels[node] for node in order}


def _label(layer: Layer) -> str:
    """Name a layer by its module and node."""
    return f"{layer.module}: {layer.node}" if layer.module else layer.node
