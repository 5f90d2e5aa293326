"""What every observer is: a module that passes its input through and can say which qparams would suit it."""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from quantizer_sdk.dtypes import CODE_RANGES, code_range
from quantizer_sdk.errors import (
    CalibrationError,
    InvalidSpecError,
    NonFiniteError,
    UncalibratedError,
    UnsupportedError,
)
from quantizer_sdk.granularity import Granularity, PerAxis, PerTensor, grid_of, to_lanes
from quantizer_sdk.observers.module import QParamsModule
from quantizer_sdk.qparams import choose_qparams, choose_run_time_qparams, default_eps
from quantizer_sdk.spec import PER_CHANNEL_SCHEMES, SYMMETRIC_SCHEMES

__all__ = ["ObserverBase"]


class _Seen:
    """A parameter as it was when it was observed; copied or saved with its observer it is none."""

    def __init__(self, parameter: nn.Parameter | None = None) -> None:
        self._parameter = None if parameter is None else weakref.ref(parameter)
        self._version = None if parameter is None else parameter._version

    def is_still(self, x: torch.Tensor) -> bool:
        """Whether a tensor is that parameter, unchanged."""
        return self._parameter is not None and self._parameter() is x and self._version == x._version

    def __deepcopy__(self, memo: dict[int, object]) -> _Seen:
        return _Seen()

    def __reduce__(self) -> tuple[type[_Seen], tuple[()]]:
        return _Seen, ()


class ObserverBase(QParamsModule, ABC):
    """Watches a tensor go by and chooses its qparams.

    Args:
        dtype: The type of the codes; a float type that a tensor is merely cast to has none.
        quant_min: Smallest code; None takes the dtype's.
        quant_max: Largest code; None takes the dtype's.
        qscheme: Per tensor or per channel, symmetric or affine; None takes `default_qscheme` of the class.
        ch_axis: The channel axis of a per-channel scheme; None takes 0.
        is_dynamic: Kept for the engine, which converts a dynamic observer to qparams computed at run time.
        eps: Smallest scale to choose; None takes `qparams.default_eps`.
        granularity: How many elements share one scale; None takes what the qscheme says. With it, the qscheme only
            tells symmetric from affine.
        power_of_two_scale: Whether scales are rounded up to powers of two.
        scale_dtype: The float type that scales are rounded to, as the runtime stores them; they stay float32 tensors.

    Attributes:
        shape: The shape of the last tensor seen; None before the first.
        value_dtype: Its float type; None before the first.
        join: Joins the range of a batch with those of other ranks; None for one rank.
        location: Where in the model this observer sits, in words; the engine sets it and errors quote it.
    """

    default_qscheme: torch.qscheme = torch.per_tensor_affine

    dtype: torch.dtype
    quant_min: int
    quant_max: int
    qscheme: torch.qscheme
    granularity: Granularity
    ch_axis: int | None
    is_dynamic: bool
    eps: float | None
    power_of_two_scale: bool
    scale_dtype: torch.dtype
    shape: tuple[int, ...] | None
    value_dtype: torch.dtype | None
    location: str
    join: Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]] | None
    _seen: _Seen

    def __init__(
        self,
        dtype: torch.dtype = torch.int8,
        quant_min: int | None = None,
        quant_max: int | None = None,
        qscheme: torch.qscheme | None = None,
        ch_axis: int | None = None,
        is_dynamic: bool = False,
        eps: float | None = None,
        granularity: Granularity | None = None,
        power_of_two_scale: bool = False,
        scale_dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        qscheme = self.default_qscheme if qscheme is None else qscheme
        if granularity is None:
            granularity = PerAxis(ch_axis or 0) if qscheme in PER_CHANNEL_SCHEMES else PerTensor()
        low, high = code_range(dtype, quant_min, quant_max) if dtype in CODE_RANGES else (0, 0)
        # At once, for nn.Module's own way of setting an attribute takes longer than all else here.
        self.__dict__.update(
            dtype=dtype,
            quant_min=low,
            quant_max=high,
            qscheme=qscheme,
            granularity=granularity,
            ch_axis=granularity.axis if isinstance(granularity, PerAxis) else None,
            is_dynamic=is_dynamic,
            eps=eps,
            power_of_two_scale=power_of_two_scale,
            scale_dtype=scale_dtype,
            shape=None,
            value_dtype=None,
            location="",
            scale_floor=None,
            join=None,
            _seen=_Seen(),
        )

    @property
    @abstractmethod
    def calibrated(self) -> bool:
        """Whether it has seen enough to choose qparams."""

    @abstractmethod
    def observe(self, x: torch.Tensor) -> None:
        """Take in one detached float tensor with at least one element."""

    @abstractmethod
    def observed_range(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the (min, max) to quantize, float32; shape [] per tensor, [channels] per axis, else the grid's."""

    def forward(self, x: torch.Tensor, *, seen: bool = False) -> torch.Tensor:
        """Observe and pass through; a parameter that has not changed since it was observed is not observed again.

        Args:
            x: Any float tensor.
            seen: Whether all its values went by before, and only moved since.

        Raises:
            CalibrationError: The tensor is empty or not of a float dtype.
            NonFiniteError: It holds NaN or infinity.
        """
        if seen or self._seen.is_still(x):
            return x
        if not x.is_floating_point():
            message = f"{self._where()} was given {x.dtype}; only float tensors have a range to calibrate"
            raise CalibrationError(message)
        if x.numel() == 0:
            message = f"{self._where()} was given an empty tensor of shape {tuple(x.shape)}; leave empty batches out"
            raise CalibrationError(message)
        self.__dict__.update(shape=tuple(x.shape), value_dtype=x.dtype)
        self.observe(x.detach())
        if isinstance(x, nn.Parameter) and not x.is_inference():
            self.__dict__["_seen"] = _Seen(x)
        return x

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        """Take another state, which has seen other data."""
        self.__dict__["_seen"] = _Seen()
        super()._load_from_state_dict(*args, **kwargs)

    def calculate_qparams(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (scale, zero_point), float32 and int32; shape [1] per tensor, [channels] per axis, else the grid's.

        Raises:
            UncalibratedError: It has seen no data.
        """
        if not self.calibrated:
            message = f"{self._where()} has seen no data; run the prepared model on calibration data first"
            raise UncalibratedError(message)
        scale, zero_point = self._choose(*self.observed_range())
        if self.scale_floor is not None:
            scale = torch.maximum(scale, self.scale_floor)
        return scale, zero_point

    def qparams_of(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the qparams that hold all of one tensor, of the same shapes, whatever was seen before.

        Raises:
            NonFiniteError: It holds NaN or infinity.
        """
        low, high = self._min_max(x)
        if not self.is_dynamic or self.symmetric or isinstance(self.granularity, PerTensor):
            return self._choose(low, high)
        eps = default_eps() if self.eps is None else self.eps
        return choose_run_time_qparams(low, high, quant_min=self.quant_min, quant_max=self.quant_max, eps=eps)

    def _choose(self, low: torch.Tensor, high: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scale, zero_point = choose_qparams(
            low,
            high,
            quant_min=self.quant_min,
            quant_max=self.quant_max,
            symmetric=self.symmetric,
            eps=self.eps,
            power_of_two=self.power_of_two_scale,
        )
        scale = scale.to(self.scale_dtype).to(torch.float32)
        return (scale.reshape(1), zero_point.reshape(1)) if scale.dim() == 0 else (scale, zero_point)

    def snapshot(self) -> dict[str, Any]:
        """Return all that data has taught it, on the CPU: what `restore` and `merge` take."""
        state = {
            key: value.cpu() if isinstance(value, torch.Tensor) else value for key, value in self.state_dict().items()
        }
        return {"state": state, "shape": self.shape, "value_dtype": self.value_dtype}

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Know what a snapshot knows, and nothing else."""
        self.load_state_dict(snapshot["state"])
        self.__dict__.update(shape=snapshot["shape"], value_dtype=snapshot["value_dtype"])

    def merge(self, others: Sequence[ObserverBase]) -> None:
        """Know what these observers of the same class know together, and nothing else.

        Args:
            others: Calibrated ones, at least one.

        Raises:
            UnsupportedError: The class does not say how.
        """
        message = (
            f"{self._where()} cannot be merged with those of {len(others)} ranks, for its class does not say how; "
            "give it a method merge(others), or calibrate in one process"
        )
        raise UnsupportedError(message)

    @property
    def merges(self) -> bool:
        """Whether `merge` is implemented."""
        return type(self).merge is not ObserverBase.merge

    @property
    def symmetric(self) -> bool:
        """Whether the zero point is fixed by the range of codes alone."""
        return self.qscheme in SYMMETRIC_SCHEMES

    def _lanes(self, x: torch.Tensor) -> tuple[torch.Tensor, tuple[int, ...]]:
        """Return `x` as [blocks, elements of a block], and the shape that one number a block has in the state."""
        try:
            block = self.granularity.block_of(x.shape)
        except InvalidSpecError as e:
            message = f"{self._where()} was given shape {tuple(x.shape)}, but {e}"
            raise CalibrationError(message) from e
        if isinstance(self.granularity, PerTensor):
            return x.reshape(1, -1), ()
        shape = (x.shape[self.granularity.axis],) if isinstance(self.granularity, PerAxis) else grid_of(block, x.shape)
        return to_lanes(x, block), shape

    def _min_max(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Smallest and largest value, over all or by block, in float32; refuses what is not finite."""
        if isinstance(self.granularity, PerTensor):
            low, high = torch.aminmax(x)
        else:
            lanes, shape = self._lanes(x)
            low, high = (end.reshape(shape) for end in torch.aminmax(lanes, dim=1))
        low, high = low.to(torch.float32), high.to(torch.float32)
        if self.join is not None:
            low, high = self.join(low, high)
        # NaN and infinity survive a minimum or maximum, so two small tensors tell about the whole.
        if not bool(torch.isfinite(low).all() and torch.isfinite(high).all()):
            count = int((~torch.isfinite(x)).sum())
            message = (
                f"{self._where()} was given {count} NaN or infinite of {x.numel()} values; the float model itself "
                "yields them for this calibration data"
            )
            raise NonFiniteError(message)
        return low, high

    def _require_channels(self, x: torch.Tensor, low: torch.Tensor, before: torch.Tensor) -> None:
        """Refuse a tensor whose scales are not as many as before.

        Raises:
            CalibrationError: They are not.
        """
        if low.shape != before.shape:
            message = (
                f"{self._where()} was given {low.numel()} channels, shape {tuple(x.shape)}, "
                f"after {before.numel()} channels before"
            )
            raise CalibrationError(message)

    def _where(self) -> str:
        name = type(self).__name__
        return f"{name} on {self.location}" if self.location else name

    def extra_repr(self) -> str:
        """Return the range and scheme for printing."""
        return f"{self.dtype}, {self.quant_min}..{self.quant_max}, {self.qscheme}, {self.granularity}"
