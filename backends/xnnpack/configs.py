"""Ready-made quantization configs for XNNPACK's kernels: signed 8-bit activations, symmetric 8-bit weights."""

from __future__ import annotations

from typing import Any

import torch

from quantizer_sdk import ProductBiasSpec, QuantizationConfig, QuantizationSpec, RuleError, UnsupportedError
from quantizer_sdk.fake_quantize import FakeQuantize, FusedMovingAvgObsFakeQuantize
from quantizer_sdk.observers import (
    HistogramObserver,
    MinMaxObserver,
    MovingAverageMinMaxObserver,
    MovingAveragePerChannelMinMaxObserver,
    ObserverFactory,
    PerChannelMinMaxObserver,
)

__all__ = ["get_symmetric_quantization_config"]


def get_symmetric_quantization_config(
    is_per_channel: bool = False,
    is_qat: bool = False,
    is_dynamic: bool = False,
    act_qmin: int = -128,
    act_qmax: int = 127,
    weight_qmin: int = -127,
    weight_qmax: int = 127,
    *,
    activation_observer: ObserverFactory | type | None = None,
    eps: float | None = None,
) -> QuantizationConfig:
    """Return the config under which XNNPACK's static int8 kernels run. The first seven arguments are the peer's.

    "Symmetric" is said of the weights, whose zero point is 0; activations are affine.

    Args:
        is_per_channel: Whether weights have a scale for each output channel instead of one for the tensor.
        is_qat: For `prepare_qat_pt2e`: activations learn a moving average of their range, weights are rounded to the
            range that they have at each step.
        is_dynamic: For activations quantized at run time; not available yet.
        act_qmin: Smallest code of activations.
        act_qmax: Largest code of activations.
        weight_qmin: Smallest code of weights.
        weight_qmax: Largest code of weights.
        activation_observer: Chooses the activations' ranges; None takes `HistogramObserver`, in training
            `FusedMovingAvgObsFakeQuantize`.
        eps: Smallest scale; None takes 2**-23. The peer's 2**-12 rounds away weights below 0.03.

    Raises:
        UnsupportedError: `is_dynamic` is set.
        RuleError: A range is none that XNNPACK's kernels have.
    """
    if is_dynamic:
        message = "get_symmetric_quantization_config(is_dynamic=True) has no rows behind it yet; use the static config"
        raise UnsupportedError(message)
    if weight_qmin >= 0 or weight_qmax <= 0:
        message = (
            f"the weight range {weight_qmin}..{weight_qmax} does not hold codes on both sides of 0, which is the only "
            "zero point that XNNPACK's kernels take for weights; the usual range is -127..127"
        )
        raise RuleError(message)
    if activation_observer is None:
        activation_observer = FusedMovingAvgObsFakeQuantize if is_qat else HistogramObserver
    weight_observer: Any = PerChannelMinMaxObserver if is_per_channel else MinMaxObserver
    if is_qat:
        moving = MovingAveragePerChannelMinMaxObserver if is_per_channel else MovingAverageMinMaxObserver
        weight_observer = FakeQuantize.with_args(observer=moving, averaging_constant=1.0)
    activation = QuantizationSpec(
        torch.int8,
        _with_eps(activation_observer, eps),
        act_qmin,
        act_qmax,
        torch.per_tensor_affine,
    )
    weight = QuantizationSpec(
        torch.int8,
        _with_eps(weight_observer, eps),
        weight_qmin,
        weight_qmax,
        torch.per_channel_symmetric if is_per_channel else torch.per_tensor_symmetric,
        ch_axis=0 if is_per_channel else None,
    )
    return QuantizationConfig(activation, activation, weight, ProductBiasSpec(keep_float=True), is_qat)


def _with_eps(observer: ObserverFactory | type, eps: float | None) -> ObserverFactory:
    factory: ObserverFactory = observer.with_args(**({} if eps is None else {"eps": eps}))  # type: ignore[union-attr]
    return factory
