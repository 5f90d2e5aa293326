"""What an observer knows of the values that came by, beside the qparams that it chose: kept when it is replaced."""

from __future__ import annotations

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
    if not _is_range(low) or not _is_range(high) or low.shape != high.shape:
        return Seen(observer=name)
    clipped = bulk = None
    if scale is not None and zero_point is not None:
        first, last = _outermost(observer, scale, zero_point)
        counts = _Counts.of(inner, low, high)
        if counts is not None:
            clipped = counts.share_outside(first, last)
            bulk = counts.bulk() if low.numel() == 1 else None
        elif _keeps_extremes(inner) and bool(
            ((low.reshape(-1).double() >= first) & (high.reshape(-1).double() <= last)).all()
        ):
            clipped = 0.0
    return Seen(low=low.detach(), high=high.detach(), clipped=clipped, bulk=bulk, observer=name)


def _is_range(end: Any) -> bool:
    return isinstance(end, torch.Tensor) and end.numel() > 0 and bool(torch.isfinite(end).all())


def _keeps_extremes(observer: Any) -> bool:
    return isinstance(observer, MinMaxObserver) and not isinstance(observer, MovingAverageMinMaxObserver)


def _outermost(observer: Any, scale: torch.Tensor, zero_point: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the values that are just not clipped, half a step beyond the outermost codes; float64 [scales]."""
    step, zero = scale.detach().double().reshape(-1), zero_point.detach().double().reshape(-1)
    return step * (observer.quant_min - 0.5 - zero), step * (observer.quant_max + 0.5 - zero)


@dataclass(frozen=True, slots=True)
class _Counts:
    """A histogram for each scale: counts [scales, bins] and the edges of the bins, clipped to what was seen."""

    counts: torch.Tensor
    left: torch.Tensor
    right: torch.Tensor

    @classmethod
    def of(cls, observer: Any, low: torch.Tensor, high: torch.Tensor) -> _Counts | None:
        """Return the counts of an observer that keeps them."""
        histogram = getattr(observer, "histogram", None)
        if not isinstance(histogram, torch.Tensor) or not histogram.numel() or not bool((histogram > 0).any()):
            return None
        lows, highs = (end.detach().double().reshape(-1, 1) for end in (low, high))
        bins = histogram.shape[-1]
        places = torch.arange(bins, dtype=torch.float64, device=histogram.device)
        if isinstance(observer, CountingObserver):
            width = observer.bin_width.double().reshape(-1, 1)
            left = (places - bins // 2) * width
        else:  # another library's, which spreads its bins over what it has seen
            width = (highs - lows) / bins
            left = lows + places * width
        counts = histogram.detach().double().reshape(-1, bins)
        if len(counts) != len(lows):
            return None
        return cls(counts, left.clamp(lows, highs), (left + width).clamp(lows, highs))

    def share_outside(self, first: torch.Tensor, last: torch.Tensor) -> float:
        """Return the share of all counts outside of (first, last) of each scale; a bin's are spread evenly over it."""
        first, last = first.reshape(-1, 1).to(self.left.device), last.reshape(-1, 1).to(self.left.device)
        width = self.right - self.left
        inside = (torch.minimum(self.right, last) - torch.maximum(self.left, first)).clamp(min=0)
        point = ((self.left >= first) & (self.left <= last)).double()
        share = torch.where(width > 0, inside / width.clamp(min=torch.finfo(torch.float64).tiny), point)
        total = float(self.counts.sum())
        return max(0.0, 1.0 - float((self.counts * share.clamp(max=1.0)).sum()) / total)

    def bulk(self) -> float:
        """Return the magnitude, up to the width of a bin, that the share BULK of one scale's values stays below."""
        ends = torch.maximum(self.left.abs(), self.right.abs()).reshape(-1)
        order = ends.argsort()
        below = self.counts.reshape(-1)[order].cumsum(0)
        place = int(torch.searchsorted(below, below[-1] * BULK))
        return float(ends[order][min(place, len(ends) - 1)])
