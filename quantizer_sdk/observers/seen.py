"""What an observer knows of the values that came by, beside the qparams that it chose: kept when it is replaced."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from quantizer_sdk.observers.counting import CountingObserver
from quantizer_sdk.observers.min_max import MinMaxObserver, MovingAverageMinMaxObserver

__all__ = ["BULK", "SEEN_KEY", "Seen", "seen_by"]

SEEN_KEY = "quantizer_sdk_seen"
"""Where the metadata of a quantize or dequantize op has the `Seen` of the observer in whose place it is."""

BULK = 0.999
"""The share of all values that `Seen.bulk` bounds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What an observer knows.

    Attributes:
        low: The smallest value of each scale, float32, [] for one; None where it keeps none. Averages, if it averages.
        high: The largest.
        clipped: Share of the values beyond the outermost codes by more than half a step; None where it cannot tell.
        bulk: The magnitude that 99.9 % of the values stay below; None where it does not count, or for several scales.
        observer: Name of its class.
    """

    low: torch.Tensor | None = None
    high: torch.Tensor | None = None
    clipped: float | None = None
    bulk: float | None = None
    observer: str = ""


def seen_by(observer: Any, scale: torch.Tensor | None, zero_point: torch.Tensor | None) -> Seen:
    """Return what an observer knows, or that in a fake quantizer; of another library's, what it keeps by usual names.

    Args:
        observer: One that is asked as it is, and not changed.
        scale: What it chose, as `calculate_qparams` returns it; None before it has seen data.
        zero_point: The same.
    """
    inner = observer._modules.get("activation_post_process") or observer
    low: Any = getattr(inner, "min_val", None)
    high: Any = getattr(inner, "max_val", None)
    name = type(inner).__name__
    if not _is_range(inner, low, high):
        return Seen(observer=name)
    clipped = bulk = None
    if scale is not None and zero_point is not None:
        step, zero = scale.detach(), zero_point.detach()
        histogram = getattr(inner, "histogram", None)
        if isinstance(histogram, torch.Tensor) and histogram.numel():
            grid = zip(step.reshape(-1).tolist(), zero.reshape(-1).tolist(), strict=True)
            ends = [(s * (observer.quant_min - 0.5 - z), s * (observer.quant_max + 0.5 - z)) for s, z in grid]
            clipped, bulk = _of_counts(inner, histogram.detach(), low, high, ends)
        elif isinstance(inner, MinMaxObserver) and not isinstance(inner, MovingAverageMinMaxObserver):
            clipped = 0.0 if inner is observer or _holds(observer, step, zero, low, high) else None
    return Seen(low=low.detach(), high=high.detach(), clipped=clipped, bulk=bulk, observer=name)


def _is_range(observer: Any, low: Any, high: Any) -> bool:
    for end in (low, high):
        if not isinstance(end, torch.Tensor) or end.numel() == 0:
            return False
    ours = isinstance(observer, MinMaxObserver)  # which refuses what is not finite
    return ours or (low.shape == high.shape and bool((torch.isfinite(low) & torch.isfinite(high)).all()))


def _holds(fake: Any, step: torch.Tensor, zero: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> bool:
    """Whether the codes of a fake quantizer, which may have learned its scale, hold all that its observer saw."""
    slack = 0.51  # half a step, and what float32 rounds
    inside = (low.reshape(-1) >= step * (fake.quant_min - slack - zero)) & (
        high.reshape(-1) <= step * (fake.quant_max + slack - zero)
    )
    return bool(inside.all())


def _of_counts(
    observer: Any, histogram: torch.Tensor, low: torch.Tensor, high: torch.Tensor, ends: list[tuple[float, float]]
) -> tuple[float | None, float | None]:
    """Return the share of all counts outside of each scale's ends, and the bulk of one scale."""
    bins = histogram.shape[-1]
    spans = list(zip(low.reshape(-1).tolist(), high.reshape(-1).tolist(), strict=True))
    ours = isinstance(observer, CountingObserver)
    # Another library's spreads its bins over what it has seen.
    widths = observer.bin_width.tolist() if ours else [(top - bottom) / bins for bottom, top in spans]
    below = histogram.reshape(-1, bins).double().cumsum(1)  # the upper edges of the bins
    totals = below[:, -1].tolist()
    if not len(totals) == len(spans) == len(ends) or min(widths) <= 0 or sum(totals) <= 0:
        return None, None
    outside = 0.0
    for lane, (width, span, (first, last), total) in enumerate(zip(widths, spans, ends, totals, strict=True)):
        start = -width * (bins // 2) if ours else span[0]
        outside += (
            total + _below(below[lane], first, start, width, span) - _below(below[lane], last, start, width, span)
        )
    bulk = _bulk(below[0], widths[0]) if ours and len(totals) == 1 else None
    return min(1.0, max(0.0, outside / sum(totals))), bulk


def _below(below: torch.Tensor, end: float, start: float, width: float, span: tuple[float, float]) -> float:
    """Return how many values lie below one; those of a bin are spread evenly over as much of it as was seen."""
    if end <= span[0]:
        return 0.0
    if end >= span[1]:
        return float(below[-1])
    place = min(max(math.floor((end - start) / width), 0), below.numel() - 1)
    left, right = max(start + place * width, span[0]), min(start + (place + 1) * width, span[1])
    before, after = (float(below[place - 1]) if place else 0.0), float(below[place])
    share = (end - left) / (right - left) if right > left else 1.0
    return before + min(max(share, 0.0), 1.0) * (after - before)


def _bulk(below: torch.Tensor, width: float) -> float:
    """Return the magnitude, up to the width of a bin, that the share BULK of the values stays below."""
    half = below.numel() // 2
    negative = below[: half - 1].flip(0)  # below -1, -2, ... widths
    within = below[half:-1] - negative  # below 1, 2, ... widths on either side
    place = int(torch.searchsorted(within, float(below[-1]) * BULK))
    return width * (place + 1)
