"""How the values of a layer lie: a histogram, and the range of each channel; kept in little memory for any data."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from quantizer_sdk.debug.points import Point
from quantizer_sdk.observers.histogram import HistogramObserver

__all__ = ["Spread", "SpreadWatch"]

_BINS = 256
_SHOWN = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """The float model's values at one layer.

    Attributes:
        counts: The histogram, bins of equal width.
        low: Lower end of the first bin.
        high: Upper end of the last bin.
        clip_low: The smallest value that the layer's codes can represent; None where run-time or no qparams say it.
        clip_high: The largest.
        clipped: Share of the values that are further outside than rounding takes them; None as they are.
        channel_low: The smallest value of each channel.
        channel_high: The largest.
    """

    counts: tuple[int, ...]
    low: float
    high: float
    clip_low: float | None
    clip_high: float | None
    clipped: float | None
    channel_low: tuple[float, ...]
    channel_high: tuple[float, ...]


class SpreadWatch:
    """Adds up the spread of every point; give its `look` to a run."""

    def __init__(self) -> None:
        self._histograms: dict[tuple[str, Point], HistogramObserver] = {}
        self._channels: dict[tuple[str, Point], tuple[torch.Tensor, torch.Tensor]] = {}
        self._clipped: dict[tuple[str, Point], int] = {}
        self._count: dict[tuple[str, Point], int] = {}

    def look(self, path: str, point: Point, value: torch.Tensor) -> None:
        """Add one tensor; what is infinite or NaN in it is left out."""
        key = (path, point)
        if not value.numel():
            return
        value = torch.where(torch.isfinite(value), value, 0.0).float()
        if key not in self._histograms:
            self._histograms[key] = HistogramObserver(bins=_BINS)
        self._histograms[key](value)
        self._add_channels(key, value)
        clips = None if point.rounding is None else point.rounding.clips
        if clips is not None and point.rounding is not None:
            half = float(point.rounding.narrow.args[1]) / 2  # type: ignore[arg-type]  # a number, where there are clips
            outside = (value < clips[0] - half) | (value > clips[1] + half)
            self._clipped[key] = self._clipped.get(key, 0) + int(outside.sum())
        self._count[key] = self._count.get(key, 0) + value.numel()

    def _add_channels(self, key: tuple[str, Point], value: torch.Tensor) -> None:
        axis = _channel_axis(key[1], value)
        rows = value.reshape(1, -1) if value.dim() < 2 else value.movedim(axis, 0).flatten(1)
        low, high = rows.aminmax(dim=1)
        before = self._channels.get(key)
        if before is None:
            self._channels[key] = low, high
        elif before[0].shape == low.shape:  # another number of channels, as of tokens, has no place beside the first
            self._channels[key] = torch.minimum(before[0], low), torch.maximum(before[1], high)

    def spread(self, path: str, point: Point) -> Spread | None:
        """Return what was added up at a point; None if nothing."""
        key = (path, point)
        histogram = self._histograms.get(key)
        if histogram is None:
            return None
        channel_low, channel_high = self._channels[key]
        filled = torch.nonzero(histogram.histogram[0]).reshape(-1)
        first, last = int(filled[0]), int(filled[-1]) + 1
        together = -(-(last - first) // _SHOWN)
        counts = torch.nn.functional.pad(histogram.histogram[0][first:last], (0, -(last - first) % together))
        width = float(histogram.bin_width[0])
        low = (first - _BINS // 2) * width
        clips = None if point.rounding is None else point.rounding.clips
        return Spread(
            counts=tuple(int(it) for it in counts.reshape(-1, together).sum(1)),
            low=low,
            high=low + len(counts) * width,
            clip_low=None if clips is None else clips[0],
            clip_high=None if clips is None else clips[1],
            clipped=None if clips is None else self._clipped[key] / self._count[key],
            channel_low=tuple(channel_low.tolist()),
            channel_high=tuple(channel_high.tolist()),
        )


def _channel_axis(point: Point, value: torch.Tensor) -> int:
    """Return the axis of channels: 1 behind a convolution or in an image, else the last."""
    return 1 if value.dim() >= 4 or (value.dim() == 3 and "conv" in str(point.layer.target)) else -1
