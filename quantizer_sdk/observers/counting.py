"""What observers that count values keep: a histogram for each scale."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch

from quantizer_sdk.errors import InvalidSpecError
from quantizer_sdk.observers.base import ObserverBase
from quantizer_sdk.observers.min_max import MinMaxObserver
from quantizer_sdk.qparams import next_power_of_two

__all__ = ["CountingObserver"]

_AT_ONCE = 2**17  # values that are counted at once: their bins stay in the cache


class CountingObserver(MinMaxObserver):
    """Keeps a histogram of all values too, for each scale one; its subclasses choose a range by it.

    The bins lie on a grid through 0.0 and their width is doubled, merging pairs, until they cover what came by:
    no count is ever split between bins, so the state does not depend on the order of the batches by more than one bin.

    Args:
        bins: Number of bins, a multiple of 4. The state takes 8 * bins bytes for each scale.

    Attributes:
        histogram: Counts, float64 [scales, bins].
        bin_width: float32 [scales], powers of two.

    Raises:
        InvalidSpecError: `bins` is not such a number.
    """

    histogram: torch.Tensor
    bin_width: torch.Tensor

    def __init__(self, *args: Any, bins: int = 2048, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if bins < 4 or bins % 4:
            message = f"{type(self).__name__}: bins is {bins}; it must be a multiple of 4"
            raise InvalidSpecError(message)
        self.bins = bins
        self.register_buffer("histogram", torch.empty(0, bins, dtype=torch.float64))
        self.register_buffer("bin_width", torch.empty(0))

    def observe(self, x: torch.Tensor) -> None:
        """Widen the range to hold `x`, and count its values."""
        super().observe(x)
        largest = torch.maximum(-self.min_val, self.max_val).reshape(-1)
        if not self.bin_width.numel():
            self._begin(largest)
        self._cover(largest)
        self.histogram = self.histogram + self._count(x)  # never in place: copies of a model share their buffers

    def _begin(self, largest: torch.Tensor) -> None:
        # Powers of two: the same grid whatever batch came first.
        self.bin_width = next_power_of_two(largest.clamp(min=2.0**-100) / (self.bins // 2))
        self.histogram = torch.zeros(largest.numel(), self.bins, dtype=torch.float64, device=largest.device)

    def _cover(self, largest: torch.Tensor) -> None:
        """Double bin widths until each histogram reaches from -largest to largest."""
        while bool((short := self.bin_width * (self.bins // 2) < largest).any()):
            self._widen(short)

    def _widen(self, short: torch.Tensor) -> None:
        """Double the bin widths of some scales, bool [scales]."""
        half = self.bins // 2
        pairs = self.histogram[short].reshape(-1, half, 2).sum(2)
        histogram = self.histogram.clone()
        histogram[short] = 0.0
        histogram[short, half // 2 : half // 2 + half] = pairs
        self.histogram, self.bin_width = histogram, torch.where(short, self.bin_width * 2, self.bin_width)

    def merge(self, others: Sequence[ObserverBase]) -> None:
        """Add the counts of all others up, on the widest bins of each scale: as one observer would have counted."""
        super().merge(others)
        counting = [other for other in others if isinstance(other, CountingObserver)]
        width = torch.stack([other.bin_width for other in counting]).amax(0)
        for other in counting:
            while bool((short := other.bin_width < width).any()):
                other._widen(short)
        self.bin_width, self.histogram = width, torch.stack([other.histogram for other in counting]).sum(0)

    def _count(self, x: torch.Tensor) -> torch.Tensor:
        """Return the histogram of `x`, [scales, bins], int64: torch.histc takes three times as long."""
        lanes, _shape = self._lanes(x)
        count, half = len(lanes), self.bins // 2
        per_bin = (1 / self.bin_width).reshape(-1, 1)
        middle = torch.full((), float(half), device=x.device)
        # One bin more than there are, for the value that is the upper end.
        total = torch.zeros(count * (self.bins + 1), dtype=torch.int64, device=x.device)
        small = torch.int16 if total.numel() < 2**15 else torch.int32 if total.numel() < 2**31 else torch.int64
        shift = (self.bins + 1) * torch.arange(count, device=x.device)[:, None].to(small)
        for part in torch.split(lanes, max(1, _AT_ONCE // count), dim=1):
            index = (part.to(torch.float32) * per_bin).add_(middle).to(small)  # toward 0, which is down here
            total += torch.bincount((index if count == 1 else index + shift).reshape(-1), minlength=total.numel())
        total = total.reshape(count, self.bins + 1)
        total[:, -2] += total[:, -1]
        return total[:, :-1]

    def centres(self, lane: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the middles of the filled bins of one scale, clipped to what was seen, and their counts; float32."""
        filled = torch.nonzero(self.histogram[lane]).reshape(-1)
        middles = ((filled - self.bins // 2).to(torch.float32) + 0.5) * self.bin_width[lane]
        ends = (self.min_val.reshape(-1)[lane], self.max_val.reshape(-1)[lane])
        return torch.clamp(middles, *ends), self.histogram[lane][filled].to(torch.float32)

    def observed_range(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the range that suits the counts."""
        best = [self.range_of(lane) for lane in range(len(self.histogram))]
        low, high = (torch.stack(side).reshape(self.min_val.shape) for side in zip(*best, strict=True))
        return low, high

    @abstractmethod
    def range_of(self, lane: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the (min, max) to quantize of one scale."""
