"""What every observer is: a module that passes its input through and can say which qparams would suit it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from quantizer_sdk.dtypes import code_range
from quantizer_sdk.errors import CalibrationError, NonFiniteError, UncalibratedError
from quantizer_sdk.qparams import choose_qparams
from quantizer_sdk.spec import PER_CHANNEL_SCHEMES

__all__ = ["ObserverBase", "ObserverFactory"]

_SYMMETRIC = frozenset({torch.per_tensor_symmetric, torch.per_channel_symmetric})


class ObserverFactory:
    """An observer class with some of its arguments, made by `with_args`; equal where class and arguments are equal."""

    def __init__(self, constructor: Callable[..., nn.Module], arguments: Mapping[str, Any]) -> None:
        self.constructor = constructor
        self.arguments = dict(arguments)

    def with_args(self, **arguments: Any) -> ObserverFactory:
        """Return a factory with further arguments; the later one wins."""
        return ObserverFactory(self.constructor, {**self.arguments, **arguments})

    def __call__(self, **arguments: Any) -> nn.Module:
        """Make the observer."""
        return self.constructor(**{**self.arguments, **arguments})

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ObserverFactory):
            return NotImplemented
        return self.constructor is other.constructor and self.arguments == other.arguments

    def __hash__(self) -> int:
        return hash((self.constructor, tuple(sorted(self.arguments))))

    def __repr__(self) -> str:
        name = getattr(self.constructor, "__name__", repr(self.constructor))
        return f"{name}.with_args({', '.join(f'{key}={value!r}' for key, value in self.arguments.items())})"


class ObserverBase(nn.Module, ABC):
    """Watches a tensor go by and chooses its qparams.

    Args:
        dtype: The integer type of the codes.
        quant_min: Smallest code; None takes the dtype's.
        quant_max: Largest code; None takes the dtype's.
        qscheme: Per tensor or per channel, symmetric or affine; None takes `default_qscheme` of the class.
        ch_axis: The channel axis of a per-channel scheme; None takes 0.
        is_dynamic: Kept for the engine, which converts a dynamic observer to qparams computed at run time.
        eps: Smallest scale to choose; None takes `qparams.default_eps`.

    Attributes:
        scale_floor: Smallest scale by channel, float32 [1] or [channels]; passes set it where kernels need one.
        location: Where in the model this observer sits, in words; the engine sets it and errors quote it.
    """

    default_qscheme: torch.qscheme = torch.per_tensor_affine

    def __init__(
        self,
        dtype: torch.dtype = torch.int8,
        quant_min: int | None = None,
        quant_max: int | None = None,
        qscheme: torch.qscheme | None = None,
        ch_axis: int | None = None,
        is_dynamic: bool = False,
        eps: float | None = None,
    ) -> None:
        super().__init__()
        self.dtype = dtype
        self.quant_min, self.quant_max = code_range(dtype, quant_min, quant_max)
        self.qscheme = self.default_qscheme if qscheme is None else qscheme
        self.per_channel = self.qscheme in PER_CHANNEL_SCHEMES
        self.ch_axis = (ch_axis if ch_axis is not None else 0) if self.per_channel else None
        self.is_dynamic = is_dynamic
        self.eps = eps
        self.location = ""
        self.scale_floor: torch.Tensor | None = None

    @classmethod
    def with_args(cls, **arguments: Any) -> ObserverFactory:
        """Return a factory of this class with these arguments, as specs take it."""
        return ObserverFactory(cls, arguments)

    @property
    @abstractmethod
    def calibrated(self) -> bool:
        """Whether it has seen enough to choose qparams."""

    @abstractmethod
    def observe(self, x: torch.Tensor) -> None:
        """Take in one detached float tensor with at least one element."""

    @abstractmethod
    def observed_range(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the (min, max) to quantize, shape [] or [channels], float32."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Observe and pass through.

        Raises:
            CalibrationError: The tensor is empty or not of a float dtype.
            NonFiniteError: It holds NaN or infinity.
        """
        if not x.is_floating_point():
            message = f"{self._where()} was given {x.dtype}; only float tensors have a range to calibrate"
            raise CalibrationError(message)
        if x.numel() == 0:
            message = f"{self._where()} was given an empty tensor of shape {tuple(x.shape)}; leave empty batches out"
            raise CalibrationError(message)
        self.observe(x.detach())
        return x

    def calculate_qparams(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (scale, zero_point), float32 and int32, of shape [1] or [channels].

        Raises:
            UncalibratedError: It has seen no data.
        """
        if not self.calibrated:
            message = f"{self._where()} has seen no data; run the prepared model on calibration data first"
            raise UncalibratedError(message)
        low, high = self.observed_range()
        scale, zero_point = choose_qparams(
            low,
            high,
            quant_min=self.quant_min,
            quant_max=self.quant_max,
            symmetric=self.qscheme in _SYMMETRIC,
            eps=self.eps,
        )
        scale = scale.reshape(-1)
        if self.scale_floor is not None:
            scale = torch.maximum(scale, self.scale_floor)
        return scale, zero_point.reshape(-1)

    def _min_max(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Smallest and largest value, over all or by channel, in float32; refuses what is not finite."""
        if self.ch_axis is None:
            low, high = torch.aminmax(x)
        else:
            if self.ch_axis >= x.dim():
                message = f"{self._where()} has ch_axis={self.ch_axis}, but was given shape {tuple(x.shape)}"
                raise CalibrationError(message)
            low, high = torch.aminmax(x.movedim(self.ch_axis, 0).flatten(1), dim=1)
        low, high = low.to(torch.float32), high.to(torch.float32)
        # NaN and infinity survive a minimum or maximum, so two small tensors tell about the whole.
        if not bool(torch.isfinite(low).all() and torch.isfinite(high).all()):
            count = int((~torch.isfinite(x)).sum())
            message = (
                f"{self._where()} was given {count} NaN or infinite of {x.numel()} values; the float model itself "
                "yields them for this calibration data"
            )
            raise NonFiniteError(message)
        return low, high

    def _where(self) -> str:
        name = type(self).__name__
        return f"{name} on {self.location}" if self.location else name

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any, **kwargs: Any) -> None:
        """Take buffers of any shape: before calibration they are empty, after it one element a channel."""
        for name, buffer in self._buffers.items():
            saved = state_dict.get(prefix + name)
            if buffer is not None and saved is not None and saved.shape != buffer.shape:
                self._buffers[name] = torch.empty_like(saved, device=buffer.device)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def extra_repr(self) -> str:
        """Return the range and scheme for printing."""
        axis = "" if self.ch_axis is None else f", ch_axis={self.ch_axis}"
        return f"{self.dtype}, {self.quant_min}..{self.quant_max}, {self.qscheme}{axis}"
