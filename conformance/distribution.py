"""Histograms of errors and of distances to ties, of one case or of many: what a report draws."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from quantizer_sdk.conformance.outcome import Outcome
from quantizer_sdk.errors import ReportError

__all__ = ["Distribution", "distribution_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """The sum of the histograms of some cases.

    Attributes:
        errors: Number of codes by actual minus expected code; empty where no case has such a histogram.
        edges: Bounds of the bins of half-distances; empty where no case has such a histogram.
        counts: Number of codes in each bin.
        mismatches: How many of these differ from what was expected.
        delta: The largest allowance δ among the cases; None where they have none.
        cases: Number of cases with histograms.
        otherwise_binned: How many of these have other edges of half-distances, which could not be added.
    """

    errors: Mapping[int, int] = field(hash=False)
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    mismatches: tuple[int, ...]
    delta: float | None
    cases: int
    otherwise_binned: int


def distribution_of(outcomes: Sequence[Outcome]) -> Distribution | None:
    """Add the histograms of these cases up; None where there are none.

    Half-distances are added where they have the edges that most of the cases have.

    Raises:
        ReportError: The numbers of a case are no such histograms; see `FIGURES`.
    """
    errors: Counter[int] = Counter()
    deltas: list[float] = []
    binned: dict[tuple[float, ...], list[tuple[tuple[int, ...], tuple[int, ...]]]] = {}
    cases = 0
    for outcome in outcomes:
        numbers = outcome.numbers
        try:
            errors.update({int(error): int(count) for error, count in numbers.get("error_histogram", {}).items()})
            if "half_distances" in numbers:
                edges, counts, mismatches = _bins(numbers["half_distances"])
                binned.setdefault(edges, []).append((counts, mismatches))
            deltas += [float(numbers["delta_max"])] if "delta_max" in numbers else []
        except (AttributeError, KeyError, TypeError, ValueError) as e:
            message = f"case {outcome.id}: numbers that are no histograms: {type(e).__name__}: {e}"
            raise ReportError(f"{message}; expected what report.schema.json describes") from e
        cases += "error_histogram" in numbers or "half_distances" in numbers
    if not cases:
        return None
    common = max(binned, key=lambda edges: len(binned[edges]), default=())
    added = binned.get(common, [])
    return Distribution(
        errors=dict(sorted(errors.items())),
        edges=common,
        counts=tuple(map(sum, zip(*(counts for counts, _ in added), strict=True))),
        mismatches=tuple(map(sum, zip(*(mismatches for _, mismatches in added), strict=True))),
        delta=max(deltas, default=None),
        cases=cases,
        otherwise_binned=sum(map(len, binned.values())) - len(added),
    )


def _bins(content: Mapping[str, Any]) -> tuple[tuple[float, ...], tuple[int, ...], tuple[int, ...]]:
    """Return the edges of half-distances, and the counts and mismatches between them."""
    edges, counts, mismatches = (tuple(content[key]) for key in ("edges", "counts", "mismatches"))
    if not len(edges) - 1 == len(counts) == len(mismatches) > 0:
        raise ValueError(f"{len(edges)} edges, {len(counts)} counts and {len(mismatches)} mismatches")
    return tuple(map(float, edges)), tuple(map(int, counts)), tuple(map(int, mismatches))
