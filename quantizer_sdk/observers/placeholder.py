"""The observer that looks at nothing: for qparams chosen at run time, and for tensors that are only cast."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from quantizer_sdk.errors import UnsupportedError
from quantizer_sdk.observers.base import ObserverBase

__all__ = ["PlaceholderObserver"]


class PlaceholderObserver(ObserverBase):
    """Passes its input through and marks the place.

    What becomes of it at conversion follows from its dtype: with `is_dynamic` a quantize op whose qparams are computed
    from each run's data; float16 or bfloat16, a cast there and back; float32, nothing.
    """

    def __init__(self, dtype: torch.dtype = torch.float32, *args: Any, **kwargs: Any) -> None:
        super().__init__(dtype, *args, **kwargs)

    @property
    def calibrated(self) -> bool:
        """Always: there is nothing to see."""
        return True

    def observe(self, x: torch.Tensor) -> None:
        """Do nothing."""

    def merge(self, others: Sequence[ObserverBase]) -> None:
        """Do nothing: there is no state."""

    def observed_range(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Refuse: there is no range.

        Raises:
            UnsupportedError: Always.
        """
        message = f"{self._where()} chooses no qparams: it has looked at no data"
        raise UnsupportedError(message)
