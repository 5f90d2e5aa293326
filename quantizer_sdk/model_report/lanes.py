"""Where the tensors of a graph run beside its rows: each in a lane of its own, as branches beside commits do."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from quantizer_sdk.model_report.flow import Edge, FlowNode

__all__ = ["RowLanes", "lanes_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RowLanes:
    """What is drawn beside one row.

    Attributes:
        lane: Where the row's own dot stands, and where its result runs down; 0 is the first.
        passing: Lanes of tensors that run past.
        reads: Lanes that the row reads, each with the tensor.
        ending: Those of them that end here.
        used: Whether anything reads the row's result.
    """

    lane: int
    passing: tuple[int, ...]
    reads: tuple[tuple[int, Edge], ...]
    ending: frozenset[int]
    used: bool


def lanes_of(rows: Sequence[FlowNode]) -> tuple[RowLanes, ...]:
    """Give each row's result a lane from the row that makes it to the last that reads it; lanes are used again.

    The row stands in the lane of the first tensor that ends with it, so that a chain runs straight down.
    """
    last = {edge.producer: index for index, row in enumerate(rows) for edge in row.edges}
    lane_of: dict[int, int] = {}
    live: dict[int, int] = {}
    free: list[int] = []
    width = 0
    placed = []
    for index, row in enumerate(rows):
        reads = tuple((lane_of[edge.producer], edge) for edge in row.edges)
        ending = [lane for lane, edge in reads if last[edge.producer] == index]
        for lane in ending:
            live.pop(lane)
        passing = tuple(sorted(lane for lane in live))
        own = ending[0] if ending else heapq.heappop(free) if free else width
        width = max(width, own + 1)
        for lane in ending[1:]:
            heapq.heappush(free, lane)
        used = index in last
        lane_of[index] = own
        if used:
            live[own] = index
        else:
            heapq.heappush(free, own)
        placed.append(RowLanes(lane=own, passing=passing, reads=reads, ending=frozenset(ending), used=used))
    return tuple(placed)
