"""The observer of a tensor whose qparams are known beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from quantizer_sdk.observers.base import ObserverBase

__all__ = ["FixedQParamsObserver"]


class FixedQParamsObserver(ObserverBase):
    """Looks at no data and answers with the given qparams.

    Args:
        scale: Step between two codes.
        zero_point: Code of 0.0.
    """

    scale: torch.Tensor
    zero_point: torch.Tensor

    def __init__(self, scale: float, zero_point: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.register_buffer("scale", torch.tensor([scale], dtype=torch.float32))
        self.register_buffer("zero_point", torch.tensor([zero_point], dtype=torch.int32))

    @property
    def calibrated(self) -> bool:
        """Always: there is nothing to see."""
        return True

    def observe(self, x: torch.Tensor) -> None:
        """Do nothing."""

    def merge(self, others: Sequence[ObserverBase]) -> None:
        """Do nothing: there is no state."""

    def observed_range(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the real values of the smallest and the largest code."""
        low = self.scale * (self.quant_min - self.zero_point)
        return low, self.scale * (self.quant_max - self.zero_point)

    def calculate_qparams(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the given scale and zero point."""
        return self.scale, self.zero_point
