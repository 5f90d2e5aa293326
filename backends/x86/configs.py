"""Ready-made quantization configs for x86: unsigned 8-bit activations, symmetric weights of 8, 7 or 4 bits."""

from __future__ import annotations

import dataclasses

import torch

from quantizer_sdk import ProductBiasSpec, QuantizationConfig, RuleError
from quantizer_sdk.backends.x86.isa import sums_are_exact
from quantizer_sdk.observers import ObserverFactory, PerToken, PlaceholderObserver
from quantizer_sdk.recipes import activation_spec, symmetric_config, weight_spec

__all__ = ["get_default_x86_quantization_config"]

_WEIGHT_ENDS = {8: (-127, 127), 7: (-63, 63), 4: (-8, 7)}


def get_default_x86_quantization_config(
    is_qat: bool = False,
    is_dynamic: bool = False,
    reduce_range: bool | None = None,
    *,
    is_per_channel: bool = True,
    is_weight_only: bool = False,
    is_per_token: bool = False,
    bits: int = 8,
    group_size: int | None = None,
    act_qmin: int = 0,
    act_qmax: int = 255,
    activation_observer: ObserverFactory | type | None = None,
    deployment_isa: str | None = None,
) -> QuantizationConfig:
    """Return the config under which integer kernels run on x86, on every route.

    The first three arguments are the peer's.

    Args:
        is_qat: For `prepare_qat_pt2e`: activations learn a moving average of their range, weights are rounded to the
            range that they have at each step.
        is_dynamic: Whether each run quantizes activations by the range of its own data, with no calibration.
        reduce_range: Whether weights have 7 bits, -63..63, which processors without VNNI and AMX multiply without loss.
            None asks this machine, or `deployment_isa`. The peer takes the bit from activations instead.
        is_per_channel: Whether weights have a scale for each output channel instead of one for the tensor.
        is_weight_only: Whether activations stay float, and weights are only stored as integers.
        is_per_token: Whether, with `is_dynamic`, each row of activations has qparams of its own.
        bits: Of a weight's code: 8, or 4 for linear layers, weight-only, by groups, on ONNX Runtime.
        group_size: How many neighbours of a weight share a scale, for 4 bits; None for a whole channel.
        act_qmin: Smallest code of static activations.
        act_qmax: Largest code of static activations.
        activation_observer: Chooses the ranges of static activations; None takes `HistogramObserver`, in training
            `FusedMovingAvgObsFakeQuantize`.
        deployment_isa: The instruction set of the machine that will run the model, as in `isa.INSTRUCTION_SETS`.

    Raises:
        RuleError: Arguments contradict each other, or one is none of its values.
    """
    _check(is_qat, is_dynamic, is_weight_only, is_per_token, bits, group_size, activation_observer)
    if reduce_range is None:
        reduce_range = not is_weight_only and not sums_are_exact(deployment_isa)
    elif deployment_isa is not None:
        sums_are_exact(deployment_isa)  # refuses what it does not know
    low, high = _WEIGHT_ENDS[7 if reduce_range and bits == 8 else bits]
    weight = weight_spec(low, high, is_per_channel=is_per_channel, is_qat=is_qat, group_size=group_size)
    if is_weight_only:
        return QuantizationConfig(None, None, weight, None, is_qat)
    if is_per_token:  # the field's op for it gives int8, which is uint8 with another zero point
        activation = activation_spec(torch.int8, -128, 127, is_dynamic=True, observer=activation_observer)
        by_row = PlaceholderObserver.with_args(eps=0.0, granularity=PerToken())
        activation = dataclasses.replace(activation, observer_or_fake_quant_ctr=by_row)
    else:
        activation = activation_spec(
            torch.uint8, act_qmin, act_qmax, is_qat=is_qat, is_dynamic=is_dynamic, observer=activation_observer
        )
    return symmetric_config(activation, weight, ProductBiasSpec(), is_qat=is_qat)


def _check(
    is_qat: bool,
    is_dynamic: bool,
    is_weight_only: bool,
    is_per_token: bool,
    bits: int,
    group_size: int | None,
    observer: object,
) -> None:
    """Refuse contradictions.

    Raises:
        RuleError: There is one.
    """
    if is_qat and (is_dynamic or is_weight_only):
        message = "is_qat=True trains with fixed ranges of activations; leave out is_dynamic and is_weight_only"
        raise RuleError(message)
    if is_dynamic and is_weight_only:
        message = "is_dynamic=True quantizes activations, is_weight_only=True leaves them float; choose one"
        raise RuleError(message)
    if is_weight_only and observer is not None:
        message = f"activation_observer is {observer!r}, but with is_weight_only=True activations stay float"
        raise RuleError(message)
    if is_per_token and not is_dynamic:
        message = "is_per_token=True is for activations quantized at run time; it needs is_dynamic=True"
        raise RuleError(message)
    if bits not in {4, 8}:
        message = f"bits={bits}; weights have 8 bits, or 4 with is_weight_only=True"
        raise RuleError(message)
    if (bits == 4 or group_size is not None) and not is_weight_only:
        message = (
            f"bits={bits} and group_size={group_size}; only weights that stand alone, is_weight_only=True, have these"
        )
        raise RuleError(message)
