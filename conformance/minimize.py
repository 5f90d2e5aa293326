"""The fewest of some things without which something no longer holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

__all__ = ["minimize", "nearer"]


def minimize(items: Sequence[int], holds: Callable[[Sequence[int]], bool]) -> list[int]:
    """Return few of the items for which it still holds: none of them, taken by itself, could be left out.

    Whole runs of items are left out first, then ever shorter ones, so that few items out of many are found in about
    as many trials as there are items left, times the logarithm of all.

    Args:
        items: For all of them it holds.
        holds: Tells whether it holds for some.
    """
    kept = list(items)
    if not kept or holds([]):
        return []
    size = len(kept)
    while size:
        before = len(kept)
        start = 0
        while start < len(kept):
            fewer = kept[:start] + kept[start + size :]
            if fewer and holds(fewer):
                kept = fewer
            else:
                start += size
        if size > 1 or len(kept) == before:
            size //= 2
    return kept


def nearer(number: int, goal: int) -> list[int]:
    """Return numbers between one and a goal, the nearest to the goal first; not the number, and not the goal."""
    distance = abs(number - goal)
    sign = 1 if number > goal else -1
    return [goal + sign * step for step in dict.fromkeys((1, distance // 2, distance - 1)) if 0 < step < distance]
