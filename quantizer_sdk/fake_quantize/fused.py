"""The fake quantizer whose step is one op of torch."""

from __future__ import annotations

from typing import Any

import torch

from quantizer_sdk.errors import InvalidSpecError
from quantizer_sdk.fake_quantize.fake_quantize import FakeQuantize
from quantizer_sdk.granularity import PerAxis, PerTensor
from quantizer_sdk.observers.base import ObserverBase
from quantizer_sdk.observers.min_max import MovingAverageMinMaxObserver

__all__ = ["FusedMovingAvgObsFakeQuantize"]


class FusedMovingAvgObsFakeQuantize(FakeQuantize):
    """Does what `FakeQuantize` does with a moving-average observer, in one op.

    Args:
        observer: Makes a `MovingAverageMinMaxObserver`, per tensor or per channel.
        quant_min: Smallest code; None takes the dtype's.
        quant_max: Largest code; None takes the dtype's.
        **observer_kwargs: Passed on to the observer.

    Raises:
        InvalidSpecError: `observer` makes something else, or the granularity or dtype is none that the op knows.
    """

    def __init__(
        self,
        observer: Any = MovingAverageMinMaxObserver,
        quant_min: int | None = None,
        quant_max: int | None = None,
        **observer_kwargs: Any,
    ) -> None:
        super().__init__(observer, quant_min, quant_max, **observer_kwargs)

    def _take(self, observer: ObserverBase) -> None:
        if not isinstance(observer, MovingAverageMinMaxObserver):
            kind = type(observer).__name__
            message = f"FusedMovingAvgObsFakeQuantize: observer made a {kind}; the op averages min and max"
            raise InvalidSpecError(message)
        known = isinstance(observer.granularity, (PerTensor, PerAxis)) and not observer.power_of_two_scale
        if not known or observer.is_dynamic or observer.dtype.is_floating_point:
            message = (
                f"FusedMovingAvgObsFakeQuantize: the op knows static integer qparams per tensor and per channel, not "
                f"{observer.dtype} {observer.granularity}; use FakeQuantize"
            )
            raise InvalidSpecError(message)
        super()._take(observer)
        self.register_buffer("_off", torch.zeros(1, dtype=torch.uint8), persistent=False)  # moves with the module
        if self._runs_fused():  # what the op takes for "nothing seen yet"
            observer.min_val = torch.empty(0) if observer.ch_axis == 0 else torch.tensor(float("inf"))
            observer.max_val = torch.empty(0) if observer.ch_axis == 0 else torch.tensor(float("-inf"))

    def _runs_fused(self) -> bool:
        """Whether the op can do it: it knows channels on axis 0 only, and the data of one rank."""
        return self.activation_post_process.ch_axis in (None, 0) and not self._joins()

    @property
    def calibrated(self) -> bool:
        """Whether it has seen data."""
        low: Any = self.activation_post_process.min_val
        return low.numel() > 0 and bool(torch.isfinite(low).all())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Learn and round, as far as each is enabled.

        The op writes into its buffers, so that a step makes no new ones. Where ranks train together, and for channels
        on another axis than 0, the steps of `FakeQuantize` are taken instead.

        Raises:
            NonFiniteError: NaN or infinity came by while it learned.
        """
        observer: Any = self.activation_post_process
        if not self._runs_fused():
            if not self.calibrated:
                observer.min_val, observer.max_val = torch.empty(0), torch.empty(0)
            return super().forward(x)
        learns = self.learns()
        if not learns and self.fake_quant_enabled.item():
            self._require_calibrated()
        observer.__dict__.update(shape=tuple(x.shape), value_dtype=x.dtype)
        result: torch.Tensor = torch.fused_moving_avg_obs_fake_quant(
            x.to(torch.float32),
            self.observer_enabled if learns else self._off,
            self.fake_quant_enabled,
            observer.min_val,
            observer.max_val,
            self.scale,
            self.zero_point,
            observer.averaging_constant,
            observer.quant_min,
            observer.quant_max,
            -1 if observer.ch_axis is None else observer.ch_axis % x.dim(),
            observer.ch_axis is not None,
            observer.symmetric,
        )
        if not bool(torch.isfinite(self.scale).all()):
            observer.qparams_of(x.detach())  # names the layer
        return result.to(x.dtype)
