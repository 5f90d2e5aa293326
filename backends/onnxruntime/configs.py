"""Ready-made quantization configs for ONNX Runtime's kernels: unsigned 8-bit activations, symmetric 8-bit weights."""

from __future__ import annotations

from typing import Any

import torch

from quantizer_sdk import ProductBiasSpec, QuantizationConfig, QuantizationSpec, RuleError
from quantizer_sdk.fake_quantize import FakeQuantize, FusedMovingAvgObsFakeQuantize
from quantizer_sdk.observers import (
    HistogramObserver,
    MinMaxObserver,
    MovingAverageMinMaxObserver,
    MovingAveragePerChannelMinMaxObserver,
    ObserverFactory,
    PerChannelMinMaxObserver,
)

__all__ = ["get_uint8_quantization_config"]


def get_uint8_quantization_config(
    *,
    is_per_channel: bool = True,
    is_qat: bool = False,
    act_qmin: int = 0,
    act_qmax: int = 255,
    weight_qmin: int = -127,
    weight_qmax: int = 127,
    activation_observer: ObserverFactory | type | None = None,
) -> QuantizationConfig:
    """Return the config under which ONNX Runtime's integer kernels run on x86.

    The bias is an int32 tensor with the product of the scales, because a kernel takes it in no other form: what is in
    the converted model is then what the kernel adds.

    Args:
        is_per_channel: Whether weights have a scale for each output channel instead of one for the tensor.
        is_qat: For `prepare_qat_pt2e`: activations learn a moving average of their range, weights are rounded to the
            range that they have at each step.
        act_qmin: Smallest code of activations.
        act_qmax: Largest code of activations.
        weight_qmin: Smallest code of weights. -63 and 63 for the largest keep CPUs without VNNI from saturating at
            full speed, at the cost of a bit.
        weight_qmax: Largest code of weights.
        activation_observer: Chooses the activations' ranges; None takes `HistogramObserver`, in training
            `FusedMovingAvgObsFakeQuantize`.

    Raises:
        RuleError: The range of weights does not hold 0 with codes on both sides.
    """
    if weight_qmin >= 0 or weight_qmax <= 0:
        message = (
            f"the weight range {weight_qmin}..{weight_qmax} does not hold codes on both sides of 0, which is the zero "
            "point of weights here; the usual range is -127..127"
        )
        raise RuleError(message)
    if activation_observer is None:
        activation_observer = FusedMovingAvgObsFakeQuantize if is_qat else HistogramObserver
    weight_observer: Any = PerChannelMinMaxObserver if is_per_channel else MinMaxObserver
    if is_qat:
        moving = MovingAveragePerChannelMinMaxObserver if is_per_channel else MovingAverageMinMaxObserver
        weight_observer = FakeQuantize.with_args(observer=moving, averaging_constant=1.0)
    activation = QuantizationSpec(torch.uint8, activation_observer, act_qmin, act_qmax, torch.per_tensor_affine)
    weight = QuantizationSpec(
        torch.int8,
        weight_observer,
        weight_qmin,
        weight_qmax,
        torch.per_channel_symmetric if is_per_channel else torch.per_tensor_symmetric,
        ch_axis=0 if is_per_channel else None,
    )
    return QuantizationConfig(activation, activation, weight, ProductBiasSpec(), is_qat)
