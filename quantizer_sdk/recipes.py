"""Ready-made configs that backends share: affine activations, static or of each run's data, and symmetric weights."""

from __future__ import annotations

from typing import Any

import torch

from quantizer_sdk.errors import RuleError
from quantizer_sdk.fake_quantize import FakeQuantize, FusedMovingAvgObsFakeQuantize
from quantizer_sdk.granularity import PerGroup
from quantizer_sdk.observers import (
    HistogramObserver,
    MinMaxObserver,
    MovingAverageMinMaxObserver,
    MovingAveragePerChannelMinMaxObserver,
    ObserverFactory,
    PerChannelMinMaxObserver,
    PlaceholderObserver,
)
from quantizer_sdk.spec import QuantizationSpec, QuantizationSpecBase
from quantizer_sdk.table import QuantizationConfig

__all__ = ["activation_spec", "symmetric_config", "weight_spec"]


def activation_spec(
    dtype: torch.dtype,
    quant_min: int,
    quant_max: int,
    *,
    is_qat: bool = False,
    is_dynamic: bool = False,
    observer: ObserverFactory | type | None = None,
    eps: float | None = None,
) -> QuantizationSpec:
    """Return an affine spec with one scale for the tensor, or with those that an op takes at run time.

    Args:
        dtype: The type of the codes.
        quant_min: Smallest code.
        quant_max: Largest code.
        is_qat: Whether the spec is for `prepare_qat_pt2e`.
        is_dynamic: Whether qparams are of each run's data; they have no smallest scale then, as kernels have none.
        observer: Chooses the range; None takes `HistogramObserver`, in training `FusedMovingAvgObsFakeQuantize`.
        eps: Smallest scale; None takes 2**-23.

    Raises:
        RuleError: An observer is given although nothing is observed.
    """
    if is_dynamic:
        if observer is not None:
            message = (
                f"activation_observer is {observer!r}, which chooses ranges from calibration data; with "
                "is_dynamic=True each run chooses its own: leave it out"
            )
            raise RuleError(message)
        observer, eps = PlaceholderObserver, 0.0
    if observer is None:
        observer = FusedMovingAvgObsFakeQuantize if is_qat else HistogramObserver
    constructor = _told(observer, eps=eps)
    return QuantizationSpec(dtype, constructor, quant_min, quant_max, torch.per_tensor_affine, is_dynamic=is_dynamic)


def weight_spec(
    quant_min: int,
    quant_max: int,
    *,
    is_per_channel: bool,
    is_qat: bool = False,
    eps: float | None = None,
    group_size: int | None = None,
    scale_dtype: torch.dtype | None = None,
) -> QuantizationSpec:
    """Return a symmetric int8 spec with a scale for the tensor, for each channel or for each group.

    Args:
        quant_min: Smallest code.
        quant_max: Largest code.
        is_per_channel: Whether each output channel has a scale.
        is_qat: Whether weights are rounded, at each step, to the range that they have there.
        eps: Smallest scale; None takes 2**-23.
        group_size: How many neighbours of a row share a scale; None for all of them.
        scale_dtype: The float type that scales are rounded to; None for float32.

    Raises:
        RuleError: The range does not hold 0 with codes on both sides.
    """
    if quant_min >= 0 or quant_max <= 0:
        message = (
            f"the weight range {quant_min}..{quant_max} does not hold codes on both sides of 0, the only zero point "
            "that kernels take for weights; the usual range is -127..127"
        )
        raise RuleError(message)
    channelwise = is_per_channel and group_size is None
    observer: Any = PerChannelMinMaxObserver if channelwise else MinMaxObserver
    if is_qat:
        moving = MovingAveragePerChannelMinMaxObserver if channelwise else MovingAverageMinMaxObserver
        observer = FakeQuantize.with_args(observer=moving, averaging_constant=1.0)
    granularity = None if group_size is None else PerGroup(group_size)
    return QuantizationSpec(
        torch.int8,
        _told(observer, eps=eps, granularity=granularity, scale_dtype=scale_dtype),
        quant_min,
        quant_max,
        torch.per_channel_symmetric if channelwise else torch.per_tensor_symmetric,
        ch_axis=0 if channelwise else None,
    )


def symmetric_config(
    activation: QuantizationSpec, weight: QuantizationSpec, bias: QuantizationSpecBase | None, *, is_qat: bool
) -> QuantizationConfig:
    """Return the config of these specs; beside activations quantized at run time, results and biases stay float."""
    if activation.is_dynamic:
        return QuantizationConfig(activation, None, weight, None, is_qat)
    return QuantizationConfig(activation, activation, weight, bias, is_qat)


def _told(observer: ObserverFactory | type, **arguments: Any) -> ObserverFactory:
    """Return a factory with those of the arguments that are not None."""
    known = {name: value for name, value in arguments.items() if value is not None}
    factory: ObserverFactory = observer.with_args(**known)  # type: ignore[union-attr]
    return factory
