"""Ready-made quantization configs for XNNPACK's kernels: int8 activations, symmetric weights of 8 or 4 bits."""

from __future__ import annotations

import torch

from quantizer_sdk import ProductBiasSpec, QuantizationConfig, RuleError, UnsupportedError
from quantizer_sdk.observers import ObserverFactory
from quantizer_sdk.recipes import activation_spec, symmetric_config, weight_spec

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
    bits: int = 8,
    group_size: int | None = None,
) -> QuantizationConfig:
    """Return the config under which XNNPACK's integer kernels run. The first seven arguments are the peer's.

    "Symmetric" is said of the weights, whose zero point is 0; activations are affine.

    Args:
        is_per_channel: Whether weights have a scale for each output channel instead of one for the tensor.
        is_qat: For `prepare_qat_pt2e`: activations learn a moving average of their range, weights are rounded to the
            range that they have at each step.
        is_dynamic: Whether each run quantizes activations by the range of its own data: linear layers with a scale for
            each row, convolutions with one for each sample. Results stay float. Needs `is_per_channel`.
        act_qmin: Smallest code of activations.
        act_qmax: Largest code of activations.
        weight_qmin: Smallest code of weights.
        weight_qmax: Largest code of weights.
        activation_observer: Chooses the activations' ranges; None takes `HistogramObserver`, in training
            `FusedMovingAvgObsFakeQuantize`.
        eps: Smallest scale; None takes 2**-23. The peer's 2**-12 rounds away weights below 0.03.
        bits: 8, or 4 for weights of linear layers with the codes -8..7; needs `is_per_channel`.
        group_size: How many neighbours in a row of a 4-bit weight share a scale, a multiple of 32; None for the row.
            Scales are rounded to bfloat16 then, as XNNPACK stores them.

    Raises:
        UnsupportedError: No kernel has this combination.
        RuleError: A range is none that XNNPACK's kernels have.
    """
    _check_combination(is_per_channel, is_dynamic, bits, group_size)
    if is_dynamic and (act_qmin, act_qmax) != (-128, 127):
        message = f"act_qmin..act_qmax is {act_qmin}..{act_qmax}; kernels that quantize at run time take -128..127"
        raise RuleError(message)
    if bits == 4:
        if (weight_qmin, weight_qmax) not in {(-127, 127), (-8, 7)}:
            message = f"weight_qmin..weight_qmax is {weight_qmin}..{weight_qmax}; with bits=4 it is -8..7: leave it out"
            raise RuleError(message)
        weight_qmin, weight_qmax = -8, 7
    activation = activation_spec(
        torch.int8,
        act_qmin,
        act_qmax,
        is_qat=is_qat,
        is_dynamic=is_dynamic,
        observer=activation_observer,
        eps=eps,
    )
    weight = weight_spec(
        weight_qmin,
        weight_qmax,
        is_per_channel=is_per_channel,
        is_qat=is_qat,
        eps=eps,
        group_size=group_size,
        scale_dtype=None if group_size is None else torch.bfloat16,
    )
    return symmetric_config(activation, weight, ProductBiasSpec(keep_float=True), is_qat=is_qat)


def _check_combination(is_per_channel: bool, is_dynamic: bool, bits: int, group_size: int | None) -> None:
    """Refuse what no kernel computes, by the names of the arguments."""
    if bits not in (4, 8):
        message = f"bits={bits}; XNNPACK's integer kernels take weights of 8 or 4 bits"
    elif (is_dynamic or bits == 4) and not is_per_channel:
        found = "is_dynamic=True" if is_dynamic else "bits=4"
        message = f"{found} with is_per_channel=False has no kernel; pass is_per_channel=True"
    elif group_size is not None and (bits != 4 or not is_dynamic or group_size < 32 or group_size % 32):
        message = (
            f"group_size={group_size} with bits={bits}, is_dynamic={is_dynamic} has no kernel; groups are multiples of "
            "32, with bits=4 and is_dynamic=True"
        )
    else:
        return
    raise UnsupportedError(message)
