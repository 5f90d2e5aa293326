"""The observer that chooses the range with the least error, by any norm."""

from __future__ import annotations

from typing import Any

from quantizer_sdk.errors import InvalidSpecError
from quantizer_sdk.observers.histogram import HistogramObserver

__all__ = ["MSEObserver"]


class MSEObserver(HistogramObserver):
    """A `HistogramObserver` that may count errors by another power than 2.

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
