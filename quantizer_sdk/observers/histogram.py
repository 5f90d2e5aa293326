"""The observer that keeps histograms and clips where clipping costs less than it gains."""

from __future__ import annotations

from typing import Any

import torch

from quantizer_sdk.errors import InvalidSpecError
from quantizer_sdk.observers.base import ObserverBase
from quantizer_sdk.qparams import next_power_of_two

__all__ = ["HistogramObserver"]

_CANDIDATES = 32  # clipping points tried at each end of an affine range


class HistogramObserver(ObserverBase):
    """Keeps a histogram of all values, for each scale one, and chooses the range with the least square error.

    The bins lie on a grid through 0.0 and their width is doubled, merging pairs, until they cover what came by:
    no count is ever split between bins, so the state does not depend on the order of the batches by more than one bin.

    Args:
        bins: Number of bins, a multiple of 4. The state takes 8 * bins bytes for each scale.

    Attributes:
        histogram: Counts, float64 [scales, bins].
        bin_width: float32 [scales].

    Raises:
        InvalidSpecError: `bins` is not such a number.
    """

    histogram: torch.Tensor
    bin_width: torch.Tensor
    min_val: torch.Tensor
    max_val: torch.Tensor

    def __init__(self, *args: Any, bins: int = 2048, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if bins < 4 or bins % 4:
            message = f"HistogramObserver: bins is {bins}; it must be a multiple of 4"
            raise InvalidSpecError(message)
        self.bins = bins
        self.register_buffer("histogram", torch.empty(0, bins, dtype=torch.float64))
        self.register_buffer("bin_width", torch.empty(0))
        self.register_buffer("min_val", torch.empty(0))
        self.register_buffer("max_val", torch.empty(0))

    @property
    def calibrated(self) -> bool:
        """Whether any data came by."""
        return self.min_val.numel() > 0

    def observe(self, x: torch.Tensor) -> None:
        """Count the values of `x`."""
        low, high = self._min_max(x)
        if not self.calibrated:
            self._begin(low, high)
        self._require_channels(x, low, self.min_val)
        self.min_val, self.max_val = torch.minimum(low, self.min_val), torch.maximum(high, self.max_val)
        self._cover(torch.maximum(-low, high).reshape(-1))
        self.histogram = self.histogram + self._count(x)  # never in place: copies of a model share their buffers

    def _begin(self, low: torch.Tensor, high: torch.Tensor) -> None:
        self.min_val, self.max_val = low, high
        largest = torch.maximum(-low, high).reshape(-1).clamp(min=2.0**-100)
        # Powers of two: the same grid whatever batch came first.
        self.bin_width = next_power_of_two(largest / (self.bins // 2))
        self.histogram = torch.zeros(largest.numel(), self.bins, dtype=torch.float64, device=low.device)

    def _cover(self, largest: torch.Tensor) -> None:
        """Double bin widths until each histogram reaches from -largest to largest."""
        half = self.bins // 2
        while bool((short := self.bin_width * half < largest).any()):
            pairs = self.histogram[short].reshape(-1, half, 2).sum(2)
            histogram = self.histogram.clone()
            histogram[short] = 0.0
            histogram[short, half // 2 : half // 2 + half] = pairs
            self.histogram, self.bin_width = histogram, torch.where(short, self.bin_width * 2, self.bin_width)

    def _count(self, x: torch.Tensor) -> torch.Tensor:
        lanes, _shape = self._lanes(x.to(torch.float32))
        if lanes.shape[0] == 1:
            edge = min(float(self.bin_width) * (self.bins // 2), torch.finfo(torch.float32).max)
            return torch.histc(lanes, self.bins, -edge, edge).reshape(1, -1)
        index = torch.floor(lanes / self.bin_width[:, None]).to(torch.int64) + self.bins // 2
        index = index.clamp(0, self.bins - 1) + self.bins * torch.arange(len(lanes), device=x.device)[:, None]
        return torch.bincount(index.reshape(-1), minlength=self.histogram.numel()).reshape(self.histogram.shape)

    def observed_range(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the range with the least expected square error.

        Every candidate range quantizes the centres of the filled bins, weighted by their counts; those beyond the
        range are clipped to it. Candidates keep 100 % down to 2 % of each end.
        """
        ends = zip(self.histogram, self.bin_width, self.min_val.reshape(-1), self.max_val.reshape(-1), strict=True)
        best = [self._search(*lane) for lane in ends]
        low, high = (torch.stack(side).reshape(self.min_val.shape) for side in zip(*best, strict=True))
        return low, high

    def _search(
        self, histogram: torch.Tensor, width: torch.Tensor, smallest: torch.Tensor, largest: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Try the candidates of one histogram."""
        filled = torch.nonzero(histogram).reshape(-1)
        counts = histogram[filled].to(torch.float32)
        centres = ((filled - self.bins // 2).to(torch.float32) + 0.5) * width
        centres = torch.clamp(centres, smallest, largest)
        low, high = self._candidates(smallest, largest)
        scale, zero_point = self._choose(low, high)
        errors = torch.empty(low.numel(), device=low.device)
        for index in range(0, low.numel(), 64):  # bounds the memory of candidates x bins
            part = slice(index, index + 64)
            step, zero = scale[part, None], zero_point[part, None]
            codes = torch.clamp(torch.round(centres / step) + zero, self.quant_min, self.quant_max)
            errors[part] = torch.mv(torch.square((codes - zero) * step - centres), counts)
        best = int(errors.argmin())
        return low[best], high[best]

    def _candidates(self, smallest: torch.Tensor, largest: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """All pairs of ends to try, the whole range first."""
        kept = torch.linspace(1.0, 0.02, _CANDIDATES, device=smallest.device)
        if self.symmetric:
            return smallest * kept, largest * kept
        low = smallest * (kept if float(smallest) < 0 else kept[:1])
        high = largest * (kept if float(largest) > 0 else kept[:1])
        return low.repeat_interleave(high.numel()), high.repeat(low.numel())
