"""The observer that clips where clipping costs less than it gains."""

from __future__ import annotations

import torch

from quantizer_sdk.observers.counting import CountingObserver

__all__ = ["HistogramObserver"]

_CANDIDATES = 32  # clipping points tried at each end of an affine range
_SMALLEST = 0.02  # of an end that is tried
_ROUNDS = 4  # of refining; each halves the distance between candidates
_NEIGHBOURS = (1.0, 0.5, 0.0, -0.5, -1.0)  # the widest range first


class HistogramObserver(CountingObserver):
    """Keeps a histogram and chooses the range with the least square error.

    Every candidate range quantizes the centres of the filled bins, weighted by their counts; those beyond the
    range are clipped to it. Candidates keep 100 % down to 2 % of each end; the best one's neighbours are tried in turn.

    Attributes:
        norm: The power of an error that is summed: 2.
    """

    norm: float = 2.0

    def range_of(self, lane: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the range of one scale with the least expected error."""
        low, high = self.coarse_range_of(lane)
        smallest, largest = self.min_val.reshape(-1)[lane], self.max_val.reshape(-1)[lane]
        neighbours = torch.tensor(_NEIGHBOURS, device=low.device)
        step = (1 - _SMALLEST) / (_CANDIDATES - 1)
        for _ in range(_ROUNDS):
            lows = torch.maximum(low + neighbours * step * smallest, smallest)
            highs = torch.minimum(high + neighbours * step * largest, largest)
            low, high = self._best(lane, lows, highs)
            step /= 2
        return low, high

    def coarse_range_of(self, lane: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the best candidate, before its neighbours are tried."""
        smallest, largest = self.min_val.reshape(-1)[lane], self.max_val.reshape(-1)[lane]
        kept = torch.linspace(1.0, _SMALLEST, _CANDIDATES, device=smallest.device)
        return self._best(lane, smallest * kept, largest * kept)

    def _best(self, lane: int, low: torch.Tensor, high: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the best of all pairs of ends, the widest of which come first; an end at 0 or beyond it is one."""
        if not self.symmetric:
            low = low if float(low[0]) < 0 else low[:1]
            high = high if float(high[0]) > 0 else high[:1]
            low, high = low.repeat_interleave(high.numel()), high.repeat(low.numel())
        best = int(self._errors(lane, low, high).argmin())
        return low[best], high[best]

    def _errors(self, lane: int, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
        """Return the error of each range: the sum over all values of its power `norm`."""
        centres, counts = self.centres(lane)
        scale, zero_point = self._choose(low, high)
        errors = torch.empty(low.numel(), device=low.device)
        for index in range(0, low.numel(), 64):  # bounds the memory of candidates x bins
            part = slice(index, index + 64)
            step, zero = scale[part, None], zero_point[part, None]
            codes = torch.clamp(torch.round(centres / step) + zero, self.quant_min, self.quant_max)
            error = (codes - zero) * step - centres
            errors[part] = torch.mv(torch.square(error) if self.norm == 2 else error.abs() ** self.norm, counts)
        return errors
