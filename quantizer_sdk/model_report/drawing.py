"""One row's part of the picture of the graph, as SVG: its dot, what it reads, and what runs past."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from quantizer_sdk.model_report.lanes import RowLanes

__all__ = ["Cell", "Kind", "Line", "cells_of"]

Kind = Literal["codes", "float", "inside"]
"""What a tensor is: codes, float, or a float that never leaves the kernel that computes both ops."""

_STEP = 14
_HEIGHT = 26
_MOST_LANES = 24
"""Beyond that many, tensors share the last lane: the picture would push the words off the page."""


@dataclass(frozen=True, slots=True)
class Line:
    """A stretch of a tensor: an SVG path, and what the tensor is."""

    path: str
    kind: Kind


@dataclass(frozen=True, slots=True)
class Cell:
    """What is drawn in a row.

    Attributes:
        width: Of the drawing, in pixels.
        x: Of the dot.
        lines: Stretches of tensors.
    """

    width: int
    x: float
    lines: tuple[Line, ...]


def cells_of(rows: Sequence[RowLanes], kinds: Sequence[Kind]) -> tuple[Cell, ...]:
    """Draw each row.

    Args:
        rows: Where everything runs.
        kinds: For each row what its result is.
    """
    owner: dict[int, int] = {}
    widest = max((lane for row in rows for lane in (row.lane, *row.passing)), default=0)
    width = (min(widest, _MOST_LANES - 1) + 1) * _STEP
    cells = []
    for index, row in enumerate(rows):
        half = _HEIGHT / 2
        x = _x(row.lane)
        lines = [Line(f"M{_x(lane)} 0V{_HEIGHT}", kinds[owner[lane]]) for lane in row.passing]
        for lane, edge in row.reads:
            path = f"M{x} 0V{half}" if lane == row.lane else f"M{_x(lane)} 0C{_x(lane)} {half} {x} 2 {x} {half}"
            lines.append(Line(path, "codes" if edge.quantized else kinds[edge.producer]))
        if row.used:
            lines.append(Line(f"M{x} {half}V{_HEIGHT}", kinds[index]))
            owner[row.lane] = index
        cells.append(Cell(width, x, tuple(lines)))
    return tuple(cells)


def _x(lane: int) -> float:
    return min(lane, _MOST_LANES - 1) * _STEP + _STEP / 2
