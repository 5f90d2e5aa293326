"""The observer that leaves the rarest values out of the range."""

from __future__ import annotations

from typing import Any

import torch

from quantizer_sdk.errors import InvalidSpecError
from quantizer_sdk.observers.counting import CountingObserver

__all__ = ["PercentileObserver"]


class PercentileObserver(CountingObserver):
    """Keeps a histogram and chooses the range that holds a share of all values.

    A symmetric range leaves the largest magnitudes out, an affine one half of the rest at each end. Values within a bin
    count as spread evenly over it, so that the ends are off by less than a bin.

    Args:
        percentile: The share of values that the range holds, in percent.

    Raises:
        InvalidSpecError: `percentile` is not above 50 and up to 100.
    """

    def __init__(self, *args: Any, percentile: float = 99.99, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not 50 < percentile <= 100:
            message = f"{type(self).__name__}: percentile is {percentile}; it must be above 50 and up to 100"
            raise InvalidSpecError(message)
        self.percentile = percentile

    def range_of(self, lane: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the range of one scale that holds the share."""
        smallest, largest = self.min_val.reshape(-1)[lane], self.max_val.reshape(-1)[lane]
        counts, width, share = self.histogram[lane], self.bin_width[lane], self.percentile / 100
        half = self.bins // 2
        if self.symmetric:
            magnitudes = counts[half:] + counts[:half].flip(0)
            end = (_quantile(magnitudes, share) * width).clamp(max=torch.maximum(-smallest, largest)).to(torch.float32)
            return -end, end
        quantiles = torch.stack([_quantile(counts, part) for part in ((1 - share) / 2, (1 + share) / 2)])
        # In float64 until they are clamped: outermost bins may end beyond float32.
        low, high = ((quantiles - half) * width).clamp(smallest, largest).to(torch.float32)
        return low, high


def _quantile(counts: torch.Tensor, share: float) -> torch.Tensor:
    """Return how many bins, float64 [], hold the lowest share of all counts."""
    below = torch.cumsum(counts, 0)
    wanted = below[-1] * share
    index = torch.searchsorted(below, wanted).clamp(max=len(counts) - 1)
    within = 1 - (below[index] - wanted) / counts[index] if counts[index] > 0 else torch.ones(())
    return index + within
