"""Ready-made quantization configs for ONNX Runtime's kernels: unsigned 8-bit activations, symmetric 8-bit weights."""

from __future__ import annotations

import torch

from quantizer_sdk import ProductBiasSpec, QuantizationConfig
from quantizer_sdk.observers import ObserverFactory
from quantizer_sdk.recipes import activation_spec, symmetric_config, weight_spec

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
    activation = activation_spec(torch.uint8, act_qmin, act_qmax, is_qat=is_qat, observer=activation_observer)
    weight = weight_spec(weight_qmin, weight_qmax, is_per_channel=is_per_channel, is_qat=is_qat)
    return symmetric_config(activation, weight, ProductBiasSpec(), is_qat=is_qat)
