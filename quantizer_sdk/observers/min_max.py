"""Observers that keep the smallest and the largest value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from quantizer_sdk.errors import InvalidSpecError
from quantizer_sdk.observers.base import ObserverBase

__all__ = [
    "MinMaxObserver",
    "MovingAverageMinMaxObserver",
    "MovingAveragePerChannelMinMaxObserver",
    "PerChannelMinMaxObserver",
]


class MinMaxObserver(ObserverBase):
    """Keeps the smallest and largest value ever seen, per tensor or, under a per-channel qscheme, per channel."""

    min_val: torch.Tensor
    max_val: torch.Tensor

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.register_buffer("min_val", torch.empty(0))
        self.register_buffer("max_val", torch.empty(0))

    @property
    def calibrated(self) -> bool:
        """Whether any data came by."""
        return self.min_val.numel() > 0

    def observe(self, x: torch.Tensor) -> None:
        """Widen the range to hold `x`."""
        low, high = self._min_max(x)
        if not self.calibrated:
            self.min_val, self.max_val = low, high
            return
        self._require_channels(x, low, self.min_val)
        self._merge(low, high)

    def _merge(self, low: torch.Tensor, high: torch.Tensor) -> None:
        self.min_val = torch.minimum(self.min_val, low)
        self.max_val = torch.maximum(self.max_val, high)

    def observed_range(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the smallest and largest value."""
        return self.min_val, self.max_val

    def merge(self, others: Sequence[ObserverBase]) -> None:
        """Take the range that holds those of all others."""
        lows, highs = _ends_of(others)
        self.min_val, self.max_val = lows.amin(0), highs.amax(0)


class PerChannelMinMaxObserver(MinMaxObserver):
    """`MinMaxObserver` with a per-channel default scheme."""

    default_qscheme = torch.per_channel_affine


class MovingAverageMinMaxObserver(MinMaxObserver):
    """Keeps a moving average of each batch's smallest and largest value.

    Args:
        averaging_constant: Weight of the newest batch, in (0, 1].

    Raises:
        InvalidSpecError: `averaging_constant` is outside (0, 1].
    """

    def __init__(self, *args: Any, averaging_constant: float = 0.01, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not 0 < averaging_constant <= 1:
            message = f"{type(self).__name__}: averaging_constant is {averaging_constant}; it must lie in (0, 1]"
            raise InvalidSpecError(message)
        self.averaging_constant = averaging_constant

    def _merge(self, low: torch.Tensor, high: torch.Tensor) -> None:
        self.min_val = self.min_val + self.averaging_constant * (low - self.min_val)
        self.max_val = self.max_val + self.averaging_constant * (high - self.max_val)

    def merge(self, others: Sequence[ObserverBase]) -> None:
        """Take the mean of their averages."""
        lows, highs = _ends_of(others)
        self.min_val, self.max_val = lows.mean(0), highs.mean(0)


class MovingAveragePerChannelMinMaxObserver(MovingAverageMinMaxObserver):
    """`MovingAverageMinMaxObserver` with a per-channel default scheme."""

    default_qscheme = torch.per_channel_affine


def _ends_of(observers: Sequence[ObserverBase]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the smallest and the largest values that each has seen, an axis of observers before their own."""
    known = [observer for observer in observers if isinstance(observer, MinMaxObserver)]
    return torch.stack([it.min_val for it in known]), torch.stack([it.max_val for it in known])
