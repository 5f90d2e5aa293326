"""The fake quantizers made of an observer and a rounding."""

from __future__ import annotations

import contextlib
from typing import Any

import torch

from quantizer_sdk.distributed import joined_ranges, ranks
from quantizer_sdk.dtypes import CODE_RANGES, is_cast
from quantizer_sdk.errors import InvalidSpecError
from quantizer_sdk.fake_quantize.base import FakeQuantizeBase
from quantizer_sdk.fake_quantize.function import fake_quantize
from quantizer_sdk.observers.base import ObserverBase
from quantizer_sdk.observers.fixed import FixedQParamsObserver
from quantizer_sdk.observers.min_max import MovingAverageMinMaxObserver

__all__ = ["FakeQuantize", "FixedQParamsFakeQuantize"]


class FakeQuantize(FakeQuantizeBase):
    """Learns with an observer and rounds to the qparams that it chooses.

    With a dynamic observer the qparams are those of each input; with a dtype that is a cast it rounds to that type.

    Args:
        observer: Makes the observer when called with keywords: a class, or what its `with_args` gives.
        quant_min: Smallest code; None takes the dtype's.
        quant_max: Largest code; None takes the dtype's.
        is_dynamic: Whether qparams are computed from each run's data.
        **observer_kwargs: Passed on to the observer.

    Raises:
        InvalidSpecError: `observer` makes something else.

    Attributes:
        synchronize: Whether ranks that train together (torch.distributed) learn one range: each batch costs one
            all-reduce of two numbers a scale. Off inside control flow, where ranks may take different branches.
    """

    synchronize: bool = True

    def __init__(
        self,
        observer: Any = MovingAverageMinMaxObserver,
        quant_min: int | None = None,
        quant_max: int | None = None,
        is_dynamic: bool = False,
        **observer_kwargs: Any,
    ) -> None:
        super().__init__()
        made = observer(quant_min=quant_min, quant_max=quant_max, is_dynamic=is_dynamic, **observer_kwargs)
        self._take(made)

    @classmethod
    def of(cls, observer: ObserverBase) -> FakeQuantize:
        """Return a fake quantizer around an observer that is there already."""
        return cls(lambda **_arguments: observer)

    def _take(self, observer: ObserverBase) -> None:
        if not isinstance(observer, ObserverBase):
            message = f"{type(self).__name__}: observer made a {type(observer).__name__}; expected an ObserverBase"
            raise InvalidSpecError(message)
        self.register_buffer("scale", torch.ones(1))
        self.register_buffer("zero_point", torch.zeros(1, dtype=torch.int32))
        self.activation_post_process = observer  # last, for it answers for what this module lacks

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Learn and round, as far as each is enabled."""
        observer = self.activation_post_process
        if self.learns() and not observer.is_dynamic:
            with self._ranks_joined():
                observer(x.detach())
            if observer.dtype in CODE_RANGES:
                self.scale, self.zero_point = (value.to(x.device) for value in observer.calculate_qparams())
        if not self.fake_quant_enabled.item() or observer.dtype not in CODE_RANGES:
            cast = self.fake_quant_enabled.item() and is_cast(observer.dtype)
            return x.to(observer.dtype).to(x.dtype) if cast else x
        if observer.is_dynamic:
            scale, zero_point = observer.qparams_of(x.detach())
        else:
            self._require_calibrated()
            scale, zero_point = self.scale, self.zero_point
        return fake_quantize(
            x,
            scale,
            zero_point,
            quant_min=observer.quant_min,
            quant_max=observer.quant_max,
            granularity=observer.granularity,
            dtype=observer.dtype,
        )

    def _ranks_joined(self) -> contextlib.AbstractContextManager[None]:
        """Let the observer see the range of all ranks' data, where several train together."""
        return joined_ranges(self.activation_post_process) if self._joins() else contextlib.nullcontext()

    def _joins(self) -> bool:
        return self.synchronize and self.training and ranks() > 1


class FixedQParamsFakeQuantize(FakeQuantize):
    """Rounds to qparams known beforehand.

    Args:
        observer: Makes a `FixedQParamsObserver`.
        **observer_kwargs: Passed on to the observer.

    Raises:
        InvalidSpecError: `observer` makes something else.
    """

    def __init__(self, observer: Any = FixedQParamsObserver, **observer_kwargs: Any) -> None:
        super().__init__(observer, **observer_kwargs)

    def _take(self, observer: ObserverBase) -> None:
        if not isinstance(observer, FixedQParamsObserver):
            message = f"FixedQParamsFakeQuantize: observer made a {type(observer).__name__}, no FixedQParamsObserver"
            raise InvalidSpecError(message)
        super()._take(observer)
        self.scale, self.zero_point = observer.calculate_qparams()
