"""The observer that keeps every tensor, for looking at them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from quantizer_sdk.observers.base import ObserverBase
from quantizer_sdk.observers.min_max import MinMaxObserver

__all__ = ["RecordingObserver"]


class RecordingObserver(MinMaxObserver):
    """A `MinMaxObserver` that keeps all that came by, in memory and in its state dict.

    Attributes:
        values: The tensors, copied, in their order and of their shape and dtype.
    """

    values: list[torch.Tensor]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.__dict__["values"] = []

    def observe(self, x: torch.Tensor) -> None:
        """Keep `x`, and widen the range to hold it."""
        super().observe(x)
        # A new list, and never in place: copies of a model share what they hold.
        self.__dict__["values"] = [*self.values, x.clone()]

    def merge(self, others: Sequence[ObserverBase]) -> None:
        """Keep the tensors of all others, one observer's after the other's."""
        super().merge(others)
        self.__dict__["values"] = [value for other in others for value in other.__dict__["values"]]

    def get_extra_state(self) -> list[torch.Tensor]:
        """Return what the state dict holds besides the buffers: the tensors."""
        return self.values

    def set_extra_state(self, state: list[torch.Tensor]) -> None:
        """Take the tensors of a state dict."""
        self.__dict__["values"] = list(state)
