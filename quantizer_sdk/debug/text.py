"""A comparison as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantizer_sdk.decibels import in_db

if TYPE_CHECKING:
    from quantizer_sdk.debug.comparison import Comparison, LayerError

__all__ = ["as_text"]

_NUMBERS = 6  # columns


def as_text(comparison: Comparison, most: int) -> str:
    """Return the outputs and the worst layers, the one with most blame first."""
    where = f" on the kernels of {comparison.runner}" if comparison.runner else ""
    lines = [f"{len(comparison.layers)} layers, {comparison.batches} batches{where}"]
    lines += [f"  {it.name}: {in_db(it.sqnr)}, cosine {it.cosine:.5f}" for it in comparison.outputs]
    lines += [f"note: {note}" for note in comparison.notes]
    ranked = comparison.ranked()
    head = ("blame", "own", "unused", "built up", "cosine", "max error", "layer", "op", "module")
    rows = [head, *(_row(layer) for layer in ranked[:most])]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    for place, row in enumerate(rows):
        cells = [
            cell.rjust(width) if column < _NUMBERS else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
        source = ranked[place - 1].source if place else ""
        if source and (place == 1 or source != ranked[place - 2].source):  # once for layers of one line
            lines.append(f"{'':<{sum(widths[:_NUMBERS]) + 2 * _NUMBERS}}at {source}")
    if len(ranked) > most:
        lines.append(f"and {len(ranked) - most} more layers, in .layers and .ranked()")
    return "\n".join(lines)


def _row(layer: LayerError) -> tuple[str, ...]:
    return (
        "" if layer.blame is None else f"{100 * layer.blame:.1f} %",
        in_db(layer.own_sqnr),
        f"{layer.unused_bits:.1f} bits" if layer.unused_bits and layer.unused_bits >= 1 else "",
        in_db(layer.sqnr),
        f"{layer.cosine:.5f}",
        "" if layer.max_error_lsb is None else f"{layer.max_error_lsb:.1f} LSB",
        layer.node,
        layer.op,
        layer.module,
    )
