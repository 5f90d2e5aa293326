"""The fake quantizer whose scale is trained with the weights: LSQ."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from quantizer_sdk.errors import InvalidSpecError
from quantizer_sdk.fake_quantize.base import FakeQuantizeBase
from quantizer_sdk.granularity import PerAxis, PerTensor
from quantizer_sdk.observers.base import ObserverBase
from quantizer_sdk.observers.min_max import MinMaxObserver

__all__ = ["LearnableFakeQuantize"]


class LearnableFakeQuantize(FakeQuantizeBase):
    """Trains its scale, and under an affine scheme its zero point, by gradient.

    The gradients are those of learned step size quantization, scaled by 1 / sqrt(elements · largest code) (Esser et
    al., Learned Step Size Quantization, ICLR 2020, §2; the zero point as in Bhalgat et al., LSQ+, CVPR workshops 2020).
    The first batch that it learns from sets the start: a scale of 2·mean|x| / sqrt(largest code) for a symmetric
    scheme, the range of the batch for an affine one.

    scale and zero_point are Parameters from construction: an optimizer made before the first batch holds them.

    Args:
        observer: Makes the observer that describes the codes; its statistics are not used.
        quant_min: Smallest code; None takes the dtype's.
        quant_max: Largest code; None takes the dtype's.
        channels: How many channels a per-channel scheme has; the engine gives it.
        **observer_kwargs: Passed on to the observer.

    Attributes:
        initialized: uint8 [1]; whether the start is set.

    Raises:
        InvalidSpecError: The granularity is neither per tensor nor per axis, or the number of channels is missing.
    """

    scale: nn.Parameter
    zero_point: nn.Parameter
    initialized: torch.Tensor

    def __init__(
        self,
        observer: Any = MinMaxObserver,
        quant_min: int | None = None,
        quant_max: int | None = None,
        channels: int | None = None,
        **observer_kwargs: Any,
    ) -> None:
        super().__init__()
        made: ObserverBase = observer(quant_min=quant_min, quant_max=quant_max, **observer_kwargs)
        self.activation_post_process = made
        if not isinstance(made.granularity, (PerTensor, PerAxis)) or made.is_dynamic:
            message = (
                f"LearnableFakeQuantize: {made.granularity}, dynamic={made.is_dynamic}; it trains static scales per "
            )
            raise InvalidSpecError(message + "tensor or per axis")
        if isinstance(made.granularity, PerAxis) and channels is None:
            message = "LearnableFakeQuantize: a per-channel scheme needs channels=..., how many there are"
            raise InvalidSpecError(message)
        count = channels if channels is not None and isinstance(made.granularity, PerAxis) else 1
        self.scale = nn.Parameter(torch.ones(count))
        self.zero_point = nn.Parameter(torch.zeros(count), requires_grad=not made.symmetric)
        self.register_buffer("initialized", torch.tensor([0], dtype=torch.uint8))

    @property
    def calibrated(self) -> bool:
        """Whether the start is set."""
        return bool(self.initialized)

    def calculate_qparams(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the trained scale, and the zero point rounded to a code.

        Raises:
            UncalibratedError: It has seen no data.
        """
        observer = self.activation_post_process
        self._require_calibrated()
        scale = self.scale.detach().abs().clamp(min=torch.finfo(torch.float32).eps)
        if self.scale_floor is not None:
            scale = torch.maximum(scale, self.scale_floor)
        zero_point = self.zero_point.detach().round().clamp(observer.quant_min, observer.quant_max)
        return scale, zero_point.to(torch.int32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Round, with gradients for the scale; set the start at the first batch."""
        observer = self.activation_post_process
        observer.__dict__.update(shape=tuple(x.shape), value_dtype=x.dtype)
        if self.learns() and not self.initialized.item():
            self._start(x.detach().to(torch.float32))
        if not self.fake_quant_enabled.item():
            return x
        self._require_calibrated()
        low, high = observer.quant_min, observer.quant_max
        shape = [-1 if axis == self._axis(x) else 1 for axis in range(x.dim())] if self.scale.numel() > 1 else [1]
        factor = 1 / math.sqrt(x.numel() / self.scale.numel() * max(abs(low), high))
        eps = torch.finfo(torch.float32).eps
        scale = _with_gradient(self.scale.abs().clamp(min=eps), factor).reshape(shape)
        zero_point = _round(_with_gradient(self.zero_point, factor).clamp(low, high)).reshape(shape)
        steps = x.to(torch.float32) * (1.0 / scale)
        codes = torch.clamp(_round(steps) + zero_point, low, high)
        return ((codes - zero_point) * scale).to(x.dtype)

    def _axis(self, x: torch.Tensor) -> int | None:
        axis = self.activation_post_process.ch_axis
        return None if axis is None else axis % x.dim()

    @torch.no_grad()
    def _start(self, x: torch.Tensor) -> None:
        observer = self.activation_post_process
        scale, zero_point = observer.qparams_of(x)
        if observer.symmetric:
            axis = self._axis(x)
            lanes = x.reshape(1, -1) if axis is None else x.movedim(axis, 0).flatten(1)
            mean = 2 * lanes.abs().mean(1) / math.sqrt(max(observer.quant_max, 1))
            scale = torch.where(mean > 0, mean, scale)
        self.scale.copy_(scale)
        self.zero_point.copy_(zero_point.to(torch.float32))
        self.initialized.fill_(1)


def _round(x: torch.Tensor) -> torch.Tensor:
    """Round half to even; the gradient goes straight through."""
    return x + (torch.round(x) - x).detach()


def _with_gradient(x: torch.Tensor, factor: float) -> torch.Tensor:
    """Return x, whose gradient is scaled."""
    return (x - x * factor).detach() + x * factor
