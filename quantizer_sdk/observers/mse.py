"""The observer that searches longer for the range with the least error, by any norm."""

from __future__ import annotations

from typing import Any

import torch

from quantizer_sdk.errors import InvalidSpecError
from quantizer_sdk.observers.histogram import CANDIDATES, SMALLEST, HistogramObserver

__all__ = ["MSEObserver"]

_ROUNDS = 4  # of refining; each halves the distance between candidates
_NEIGHBOURS = (1.0, 0.5, 0.0, -0.5, -1.0)  # the widest range first


class MSEObserver(HistogramObserver):
    """A `HistogramObserver` that goes on to refine the range that it finds, and may count errors by another power.

    Args:
        norm: The power of an error that is summed: 2 gives the mean square error; a larger one weighs clipped values
            more, a smaller one less.

    Raises:
        InvalidSpecError: `norm` is not above 0.
    """

    def __init__(self, *args: Any, norm: float = 2.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not norm > 0:
            message = f"{type(self).__name__}: norm is {norm}; it must be above 0"
            raise InvalidSpecError(message)
        self.norm = norm

    def range_of(self, lane: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the range of one scale with the least expected error."""
        low, high = super().range_of(lane)
        smallest, largest = self.min_val.reshape(-1)[lane], self.max_val.reshape(-1)[lane]
        neighbours = torch.tensor(_NEIGHBOURS, device=low.device)
        step = (1 - SMALLEST) / (CANDIDATES - 1)
        for _ in range(_ROUNDS):
            lows = (low + neighbours * step * smallest).clamp(smallest, smallest.clamp(min=0))
            highs = (high + neighbours * step * largest).clamp(largest.clamp(max=0), largest)
            lows, highs = self._pairs(lows, highs)
            best = int(self._errors(lane, lows, highs).argmin())
            low, high = lows[best], highs[best]
            step /= 2
        return low, high
